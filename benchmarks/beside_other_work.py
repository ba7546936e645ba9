"""How much longer detection and training take beside other work on the same cores.

    python benchmarks/beside_other_work.py RUN DATA --out results/benchmarks/beside_other_work.json

Detection: photographs from the file to the boxes, alone, beside a process that keeps one core busy,
and two such detections at once. Training: what hard-negative mining does with each photograph,
pooling, scores of all classes and SVMs that are trained again, alone and beside the busy process.
All of it in turns, by processes that are started and warm before.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from timing import find_ratio, write_result

from data import open_dataset, read_photo
from proposals import propose
from spp_detect import Detector
from spp_detect.fc import apply_fc
from spp_detect.features import PhotoFeatures, WindowFeatures
from spp_detect.threads import get_threads, set_threads
from spp_detect.training.windows import make_keys, split_keys
from svm import HardNegativeMiner, LinearSvm, MinerState

BUSY = "while True: pass"
RETRAIN_AFTER = 400  # negatives: a few SVMs are trained again while so few photographs pass
LIKELY = -0.5  # a window that scores more may be an object


class Worker:
    """A process of this script's that does its work whenever it is told to."""

    def __init__(self, work: str, arguments: argparse.Namespace) -> None:
        command = [sys.executable, __file__, str(arguments.run), str(arguments.data)]
        command += ["--split", arguments.split, "--photographs", str(arguments.photographs)]
        self.process = subprocess.Popen(
            [*command, "--work", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.finish()  # has warmed up

    def begin(self) -> None:
        """Tell it to do its work once."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> tuple[float, float]:
        """Wait until it is done: seconds, and seconds of all its threads on a core."""
        assert self.process.stdout is not None
        seconds, on_cores = map(float, self.process.stdout.readline().split())
        return seconds, on_cores

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def prepare_detection(detector: Detector, paths: list[Path]) -> Callable[[], None]:
    """Make what detects in all photographs once."""

    def work() -> None:
        for _ in detector.detect_paths(paths):
            pass

    return work


def pool(
    detector: Detector, maps: PhotoFeatures, windows: np.ndarray
) -> tuple[Any, WindowFeatures]:
    """What the SVMs take of the distinct windows, float (U, D), and the pooled windows."""
    pooled = maps.pool(windows)
    return apply_fc(detector.fc, pooled.features, detector.config.precision).float(), pooled


def prepare_mining(detector: Detector, paths: list[Path]) -> Callable[[], None]:
    """Make what mines all photographs once; their maps and windows are there already."""
    photos = [read_photo(path) for path in paths]
    windows = [propose(photo, detector.proposal_settings) for photo in photos]
    maps = [detector.extractor.compute_maps(photo) for photo in photos]
    heads = detector.heads
    coef, intercept = heads.svm_coef.cpu().numpy(), heads.svm_intercept.cpu().numpy()
    rows = [pool(detector, *one)[0].cpu().numpy() for one in zip(maps, windows, strict=True)]
    best = [features[np.argmax(features @ coef.T, axis=0)] for features in rows]
    positives = list(np.stack(best, axis=1))  # of each class, the likeliest of each photograph
    classes = len(coef)
    state = MinerState(
        coef,
        intercept,
        np.ones(classes, bool),
        np.zeros(classes, np.int64),
        np.zeros(0, np.int64),
        np.zeros(classes, np.int64),
    )

    def fetch(keys: np.ndarray, rows: np.ndarray) -> None:
        start = 0
        for i, own in split_keys(keys):
            features, pooled = pool(detector, maps[i], windows[i][own])
            rows[start : start + len(own)] = features[pooled.inverse].cpu().numpy()
            start += len(own)

    def work() -> None:
        miner = HardNegativeMiner(positives, fetch, LinearSvm(), 1.0, retrain_after=RETRAIN_AFTER)
        miner.restore(state)
        for i, one in enumerate(windows):
            described, pooled = pool(detector, maps[i], one)
            features = described.cpu().numpy()
            negative = features @ coef.T + intercept < LIKELY
            miner.mine(features, negative, make_keys(i, pooled.first))

    return work


PREPARE = {"detection": prepare_detection, "mining": prepare_mining}


def serve(work: Callable[[], None]) -> None:
    """Do a worker's work: once to warm up, then whenever a line comes; print the seconds."""
    while True:
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        work()
        now = resource.getrusage(resource.RUSAGE_SELF)
        on_cores = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
        print(time.perf_counter() - start, on_cores, flush=True)
        if not sys.stdin.readline():
            return


def time_alone(worker: Worker) -> tuple[float, float]:
    """Seconds of one piece of work, and those on cores."""
    worker.begin()
    return worker.finish()


def time_beside_busy(worker: Worker) -> tuple[float, float]:
    """The same beside a process that keeps a core busy."""
    busy = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(0.5)
        return time_alone(worker)
    finally:
        busy.kill()
        busy.wait()


def time_both(workers: list[Worker]) -> tuple[float, float]:
    """The same for two at once: the later one's end."""
    for worker in workers:
        worker.begin()
    ends = [worker.finish() for worker in workers]
    return max(end[0] for end in ends), sum(end[1] for end in ends) / len(ends)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Time everything in turns."""
    workers = {name: Worker(name, arguments) for name in PREPARE}
    other = Worker("detection", arguments)
    contenders: dict[str, Callable[[], tuple[float, float]]] = {
        "detection alone": lambda: time_alone(workers["detection"]),
        "detection beside a busy process": lambda: time_beside_busy(workers["detection"]),
        "two detections at once": lambda: time_both([workers["detection"], other]),
        "mining alone": lambda: time_alone(workers["mining"]),
        "mining beside a busy process": lambda: time_beside_busy(workers["mining"]),
    }
    seconds: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for name, run in contenders.items():
            wall, on_cores = run()
            seconds.setdefault(name, []).append(wall)
            seconds.setdefault(f"{name}, on cores", []).append(on_cores)
    for worker in (*workers.values(), other):
        worker.stop()
    return seconds


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--photographs", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", choices=list(PREPARE), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        set_threads()
        dataset = open_dataset(arguments.data, arguments.split)
        paths = [one.path for one in dataset.photographs[: arguments.photographs]]
        serve(PREPARE[arguments.work](Detector.load(arguments.run), paths))
        return
    seconds = measure(arguments)
    ratios = {
        "detection beside a busy process": ("detection beside a busy process", "detection alone"),
        "two detections at once": ("two detections at once", "detection alone"),
        "mining beside a busy process": ("mining beside a busy process", "mining alone"),
    }
    result = {
        "ratios": {name: find_ratio(seconds, *pair) for name, pair in ratios.items()},
        "photographs": arguments.photographs,
        "threads": get_threads(),
        "seconds": seconds,
    }
    if arguments.out:
        write_result(arguments.out, result)
    for name, ratio in result["ratios"].items():
        print(f"{name}: {ratio:.2f} times as long as alone")


if __name__ == "__main__":
    main()
