"""How long `detect --ray local` takes beside `detect`, and on one core beside two.

    python benchmarks/on_ray.py PHOTOS WEIGHTS --out results/benchmarks/on_ray.json

Whole commands, in turns, from their start to their end; the results of both are lines of json.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import write_result

from data import find_photographs
from spp_detect.threads import count_cores

MODEL = "voc2007_tuned"


def run(photographs: Path, weights: str, out: Path, cores: int, more: list[str]) -> float:
    """Seconds of a command that may use so many cores."""
    command = [sys.executable, "-m", "spp_detect", "detect", str(photographs), "--model", MODEL]
    command += ["--weights", weights, "--out", str(out / "shards") if more else "-", *more]
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    start = time.perf_counter()
    with (out / "lines.jsonl").open("w") as lines:
        subprocess.run(
            command,
            check=True,
            stdout=lines,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, allowed),
        )
    return time.perf_counter() - start


def main() -> None:
    """Time in turns, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    cores = count_cores()
    ray = ["--ray", "local"]
    contenders = {"detect": (cores, []), "ray": (cores, ray), "ray, one core": (1, ray)}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for path in find_photographs(arguments.photographs)[: arguments.count]:
            shutil.copy(path, photographs)
        for turn in range(arguments.rounds):
            for name, (count, more) in contenders.items():
                if count == 1 and turn:
                    continue  # it takes the longest
                out = Path(folder) / f"{name} {turn}"
                out.mkdir()
                one = run(photographs, arguments.weights, out, count, more)
                seconds[name].append(round(one, 2))
                print(name, seconds[name], flush=True)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    result = {
        "photographs": arguments.count,
        "cores": cores,
        "seconds": seconds,
        "ray over detect": medians["ray"] / medians["detect"],
        "one core over all": medians["ray, one core"] / medians["ray"],
    }
    write_result(arguments.out, result)


if __name__ == "__main__":
    main()
