"""Where a command's time goes, function by function: the program under cProfile.

    python benchmarks/profiling.py results/profiles/detect.txt detect RUN PHOTOS --out FOUND

It sees the command's own thread; work of others (the next photograph's windows) shows as waiting.
Functions compiled by numba are counted to the first of them that Python calls.
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import sys
from pathlib import Path

from spp_detect.cli import app
from spp_detect.provenance import record_run

LINES = 25


def main() -> None:
    """Run, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of spp-detect, with arguments")
    arguments = parser.parse_args()
    profile = cProfile.Profile()
    status = 0
    try:
        profile.runcall(app, arguments.command, standalone_mode=False)
    except SystemExit as end:  # `detect` and `proposals`: not 0 where a photograph was skipped
        status = end.code
    table = io.StringIO()
    pstats.Stats(profile, stream=table).strip_dirs().sort_stats("tottime").print_stats(LINES)
    record = record_run()
    head = [f"{name}: {record[name]}" for name in ("command", "commit", "machine")]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [line.rstrip() for line in (*head, *table.getvalue().splitlines())]
    arguments.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    sys.exit(status)


if __name__ == "__main__":
    main()
