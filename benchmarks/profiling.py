"""Where a command's time goes, function by function: the program under cProfile.

    python benchmarks/profiling.py results/profiles/detect.txt detect RUN PHOTOS --out FOUND

It sees the command's own thread; work of others (the next photograph's windows) shows as waiting.
What compiled code takes is counted to the function that calls it.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import pstats
from pathlib import Path

from spp_detect.cli import app
from spp_detect.report.record import describe_run

LINES = 25


def main() -> None:
    """Run, measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="of spp-detect, with arguments")
    arguments = parser.parse_args()
    profile = cProfile.Profile()
    with contextlib.suppress(SystemExit):  # as some commands end
        profile.runcall(app, arguments.command, standalone_mode=False)
    table = io.StringIO()
    pstats.Stats(profile, stream=table).strip_dirs().sort_stats("tottime").print_stats(LINES)
    record = describe_run()
    head = [f"{name}: {record[name]}" for name in ("command", "commit", "machine")]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [line.rstrip() for line in (*head, *table.getvalue().splitlines())]
    arguments.out.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
