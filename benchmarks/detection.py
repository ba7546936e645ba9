"""Seconds a photograph from the file to the boxes, proposals included, and where they go.

    python benchmarks/detection.py RUN DATA --out results/benchmarks/detection.json

All photographs first as `detect` takes them, windows of the next proposed while the network works
on one; then photographs and windows that lie in memory; then stage after stage, as on the CPU: on a
GPU each is waited for, and windows are looked at one class after the other, as `detect` does not.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from pathlib import Path

import numpy as np
import torch
from timing import write_result

from data import open_dataset, read_photo
from proposals import propose
from spp_detect import Detector
from spp_detect.detector import Pending
from spp_detect.experiments.speed import StageClock
from spp_detect.postprocess import select_detections
from spp_detect.threads import set_threads

STAGES = {  # of a StageClock, by their names in the result
    "reading": ("reading",),
    "proposals": ("proposals",),
    "convolutions": ("conv", "warp"),  # R-CNN's crops are warped batch by batch
    "pooling": ("pooling",),
    "fc": ("fc",),
    "svm, regression, nms": ("classification",),
}


def time_stages(detector: Detector, path: Path) -> list[float]:
    """Seconds of each of `STAGES` for one photograph."""
    clock = StageClock(detector.extractor.device)
    with clock("reading"):
        photo = read_photo(path)
    with clock("proposals"):
        windows = propose(photo, detector.proposal_settings)
    scored = detector.score_passes(photo, windows, detector.config.passes, clock)
    with clock("classification"):
        select_detections(scored, detector.config)
    return [sum(clock.seconds[stage] for stage in stages) for stages in STAGES.values()]


def time_given(detector: Detector, paths: list[Path]) -> float:
    """Seconds a photograph where photographs and windows are given, each begun beside the last."""
    photos = [read_photo(path) for path in paths]
    given = [(photo, propose(photo, detector.proposal_settings)) for photo in photos]
    begun: deque[Pending] = deque()
    start = time.perf_counter()
    for photo, windows in given:
        begun.append(detector.begin(photo, windows))
        if len(begun) > detector.ahead:
            begun.popleft().read()
    for pending in begun:
        pending.read()
    return (time.perf_counter() - start) / len(given)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    set_threads()
    detector = Detector.load(arguments.run)
    chosen = open_dataset(arguments.data, arguments.split).photographs[: arguments.photographs]
    paths = [photograph.path for photograph in chosen]
    list(detector.detect_paths(paths[:4]))  # what is compiled or allocated at its first use
    start = time.perf_counter()
    count = sum(1 for _ in detector.detect_paths(paths))
    each = (time.perf_counter() - start) / count
    alone = time_given(detector, paths[:100])
    stages = np.median([time_stages(detector, path) for path in paths[:50]], axis=0)
    result = {
        "seconds_per_photograph": each,
        "photographs": count,
        "seconds_windows_given": alone,
        "stages": dict(zip(STAGES, stages.tolist(), strict=True)),
        "feature": detector.config.feature,
        "backbone": detector.config.backbone,
        "proposals": detector.config.proposals,
        "device": str(detector.extractor.device),
        "threads": torch.get_num_threads(),
    }
    write_result(arguments.out, result)
    parts = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in result["stages"].items())
    print(f"{each:.3f} s a photograph, {alone:.4f} s where windows are given")
    print(f"one after the other: {parts}")


if __name__ == "__main__":
    main()
