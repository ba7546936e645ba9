"""How many threads compute: no more than the cores that the process may use.

Threads without work sleep, so that other programs get the cores. The libraries decide on that when
they are imported: `spp_detect` tells them where it is imported before NumPy and torch, as the
command line does. A program that imports these first sets OMP_WAIT_POLICY=PASSIVE and
OPENBLAS_THREAD_TIMEOUT=4 in its environment, or else their threads take a core for some 10 ms after
each of torch's operations and for 100 ms after each of NumPy's products of matrices.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import cv2
import numba
import torch
from threadpoolctl import threadpool_limits


def _start_numba() -> None:
    """Start numba's threads, which tells an OpenMP that torch may share how many they are."""
    count = torch.get_num_threads()
    numba.get_num_threads()
    torch.set_num_threads(count)


_start_numba()


def count_cores(root: Path = Path("/")) -> int:
    """Count the cores that this process may use: by its affinity and its containers' quotas.

    Parameters
    ----------
    root : Path
        Where the system's `proc` and `sys` lie; for tests.

    Returns
    -------
    int
        At least 1; part of a core counts as one.
    """
    if hasattr(os, "sched_getaffinity"):  # Linux
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min([cores, *_find_quotas(root)])))


def set_threads(count: int | None = None) -> None:
    """Set how many threads compute, in torch, numba, OpenCV and the BLAS of NumPy and SciPy.

    Of numba it sets those of the calling thread; `set_numba_threads` does so for another one.

    Parameters
    ----------
    count : int, optional
        At least 1. By default as many as the process may use cores, or less where torch was told
        so, by OMP_NUM_THREADS for example.
    """
    count = count or get_threads()
    torch.set_num_threads(count)
    threadpool_limits(count)
    cv2.setNumThreads(count)
    set_numba_threads(count)


def get_threads() -> int:
    """How many threads compute: torch's, or the cores that the process may use if these are less.

    Who works on several photographs at once takes so many.
    """
    return min(count_cores(), torch.get_num_threads())


def set_numba_threads(count: int | None = None) -> None:
    """Set how many threads numba's kernels use that this thread starts; by default torch's number.

    Numba can use no more than it counted cores at its import, or NUMBA_NUM_THREADS.
    """
    wanted = count or torch.get_num_threads()
    numba.set_num_threads(min(wanted, numba.config.NUMBA_NUM_THREADS))


def _find_quotas(root: Path) -> list[float]:
    """The cores that each control group around this process may use, where it has a quota."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    quotas: list[float | None] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            quotas += map(_read_v2, _list_groups(root, "", path))
        elif "cpu" in controllers.split(","):
            for mount in ("cpu", controllers):
                quotas += map(_read_v1, _list_groups(root, mount, path))
    return [quota for quota in quotas if quota is not None]


def _list_groups(root: Path, mount: str, path: str) -> list[Path]:
    """A group's folder and those around it.

    Within a container the path may be that of the machine outside, where only the mount's own
    folder is there to see: folders that are missing do no harm.
    """
    top = root / "sys/fs/cgroup" / mount
    group = top / path.strip("/")
    return [group, *(around for around in group.parents if around.is_relative_to(top))]


def _read_v2(folder: Path) -> float | None:
    quota, period = _read_words(folder / "cpu.max", 2)
    return _divide(quota, period)


def _read_v1(folder: Path) -> float | None:
    (quota,) = _read_words(folder / "cpu.cfs_quota_us", 1)
    (period,) = _read_words(folder / "cpu.cfs_period_us", 1)
    return _divide(quota, period)


def _read_words(file: Path, count: int) -> list[str]:
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        words = []
    return words if len(words) == count else [""] * count


def _divide(quota: str, period: str) -> float | None:
    """None where there is no quota: "max", -1, or no number at all."""
    if not (quota.isdigit() and period.isdigit() and int(quota) and int(period)):
        return None
    return int(quota) / int(period)
