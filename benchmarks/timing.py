"""What the benchmarks share: timing in turns, so that drift hits all sides, and the record."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spp_detect.files import write_json
from spp_detect.provenance import find_commit, record_run

find_commit()  # as it stands when the benchmark starts


def time_in_turns(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, work in contenders.items():
            start = _now()
            work()
            if turn:
                seconds[name].append(_now() - start)
    return seconds


def _now() -> float:
    """The time when the GPU's queued work is done, where there is a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def find_ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Median over rounds of how many times as long one takes as the other."""
    return float(np.median(np.array(seconds[slow]) / np.array(seconds[fast])))


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a benchmark's numbers with the record of the run."""
    write_json(path, result | {"record": record_run()})
