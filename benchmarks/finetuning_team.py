"""Seconds a step of tuning the trunk takes in one process, and in two that torchrun starts.

    python benchmarks/finetuning_team.py DATA WEIGHTS --out results/benchmarks/finetuning_team.json

The preset tuned-trunk; maps of the layers before are cached first. One process of one thread, two
of one thread, and one of two threads, which is what one machine would do, take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from timing import write_result

from data import open_dataset
from spp_detect.backbones import build_backbone, load_weights
from spp_detect.config import make_run_config
from spp_detect.threads import set_numba_threads, set_threads
from spp_detect.training.feature_cache import Resources
from spp_detect.training.run import SharedFiles, TrainingRun, leave_out_without_positives
from spp_detect.training.team import join_team

WAYS = {"one process": (1, 1), "two processes": (2, 1), "one process, two threads": (1, 2)}


def time_steps(arguments: argparse.Namespace, folder: Path) -> None:
    """Take steps as one of the processes, the first of which prints the seconds of one."""
    set_threads(arguments.threads)
    dataset = open_dataset(arguments.data, "trainval")
    dataset = dataclasses.replace(dataset, photographs=dataset.photographs[: arguments.photographs])
    dataset = leave_out_without_positives(dataset)
    backbone = build_backbone("resnet18")
    load_weights(backbone, arguments.weights)
    config = make_run_config("tuned-trunk", mirror_finetuning=False)
    with join_team(torch.device("cpu")) as team:
        run = TrainingRun(
            folder / "run",
            dataset,
            config,
            backbone,
            Resources(team.device),
            shared=SharedFiles(folder / "proposals", folder / "maps"),
            team=team,
        )
        table = run.propose()
        tuner = run.make_tuner(table, run.open_cache(table))
        tuner.trunk.prepare(mirrored=False)
        with ThreadPoolExecutor(1, initializer=set_numba_threads) as worker:
            drawn = map(tuner.sampler.draw_batch, itertools.count())
            batches = tuner.read_batches(worker, map(team.share, drawn))
            taken = itertools.islice(enumerate(batches), arguments.steps + 2)
            for step, batch in taken:
                if step == 2:  # what comes before is warming up
                    begun = time.perf_counter()
                tuner.learn(step, batch)
            seconds = (time.perf_counter() - begun) / arguments.steps
        if team.leads:
            print(seconds)


def measure(way: str, given: list[str], folder: Path) -> float:
    """Time the steps of one way, in processes of their own."""
    processes, threads = WAYS[way]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    own = [__file__, *given, "--worker", str(folder), "--threads", str(threads)]
    command = [sys.executable, *(launcher if processes > 1 else []), *own]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


def main() -> None:
    """Measure and write; with --worker, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        time_steps(arguments, arguments.worker)
        return
    with tempfile.TemporaryDirectory() as folder:
        given = sys.argv[1:]
        measure("one process, two threads", given, Path(folder))  # fills the maps
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(arguments.rounds):
            for way, own in seconds.items():
                own.append(measure(way, given, Path(folder)))
    one, two, threads = (np.array(own) for own in seconds.values())
    result = {
        "seconds_per_step": seconds,
        "two_processes_times_as_fast_as_one": float(np.median(one / two)),
        "two_processes_times_as_fast_as_two_threads": float(np.median(threads / two)),
        "photographs": arguments.photographs,
        "steps": arguments.steps,
    }
    write_result(arguments.out, result)
    print(
        f"two processes: {result['two_processes_times_as_fast_as_one']:.2f} times as fast as one, "
        f"{result['two_processes_times_as_fast_as_two_threads']:.2f} times as one of two threads"
    )


if __name__ == "__main__":
    main()
