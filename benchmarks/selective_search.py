"""Our own selective search against OpenCV's fast mode: seconds, recall, a large photograph.

python benchmarks/selective_search.py DATA --out results/benchmarks/selective_search.json
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from timing import write_result

from data import open_dataset, read_photo
from proposals import ProposalSettings, measure_recall, propose

OURS = ("selective-search", "selective-search-dense")
OPPONENT = "opencv-fast"
LARGE = (4000, 3000)
BEST = (1000, 2000)


def measure_large(photo: np.ndarray) -> dict[str, Any]:
    """Seconds of a large photograph, and how much the process's peak memory grew."""
    large = cv2.resize(photo, LARGE, interpolation=cv2.INTER_CUBIC)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    windows = propose(large, ProposalSettings(method=OURS[0]))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "size": LARGE,
        "seconds": seconds,
        "windows": len(windows),
        "peak_memory_gb": peak / 1e6,
        "grown_gb": (peak - before) / 1e6,
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--photographs", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    chosen = open_dataset(arguments.data, arguments.split).photographs[: arguments.photographs]
    settings = {m: ProposalSettings(method=m, max_windows=10_000) for m in (*OURS, OPPONENT)}
    first = read_photo(chosen[0].path)
    for method in settings.values():
        propose(first, method)
    large = measure_large(first)
    seconds: dict[str, list[float]] = {m: [] for m in settings}
    windows: dict[str, list[np.ndarray]] = {m: [] for m in settings}
    for photograph in chosen:
        photo = read_photo(photograph.path)
        for name, method in settings.items():
            start = time.perf_counter()
            windows[name].append(propose(photo, method))
            seconds[name].append(time.perf_counter() - start)
    truths = [photograph.labels.easy.boxes for photograph in chosen]
    result: dict[str, Any] = {
        "split": arguments.split,
        "photographs": len(chosen),
        "large_photograph": large,
        "methods": {},
    }
    for name, found in windows.items():
        ratio = np.median(np.array(seconds[OPPONENT]) / np.array(seconds[name]))
        recalls = {best: measure_recall([w[:best] for w in found], truths) for best in BEST}
        result["methods"][name] = {
            "seconds": float(np.median(seconds[name])),
            "times_as_fast": float(ratio),
            "windows": float(np.mean([len(w) for w in found])),
            "recall": {
                str(best): {"at_50": one.at_50, "at_70": one.at_70, "average": one.average}
                for best, one in recalls.items()
            },
        }
    write_result(arguments.out, result)
    for name, one in result["methods"].items():
        recall = one["recall"]["2000"]
        print(
            f"{name}: {1000 * one['seconds']:.0f} ms, {one['times_as_fast']:.1f}× as fast, best "
            f"2,000 windows: recall {recall['at_50']:.3f} at 0.5, {recall['at_70']:.3f} at 0.7"
        )
    print(f"a photograph of 4000 × 3000: {large['seconds']:.2f} s")


if __name__ == "__main__":
    main()
