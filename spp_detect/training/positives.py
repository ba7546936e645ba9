"""The positives' features on disk, class after class: in memory they would be the largest part."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from spp_detect.files import replace_file
from spp_detect.training.feature_cache import read_halves

Halves = NDArray[np.float16]


class PositivesFile:
    """A work file of all classes' positives, written piece by piece and mapped into memory.

    An interrupted run finds it and need not pool them again.

    Parameters
    ----------
    path : Path
        An .npy file of half precision.
    counts : list of int
        How many positives each class has.
    length : int
        Values of one.
    """

    def __init__(self, path: Path, counts: list[int], length: int) -> None:
        self.path = path
        self.counts = counts
        self.shape = (sum(counts), length)

    def read(self) -> list[Halves] | None:
        """Map them into memory: per class float16 (P, F); None where they are not there whole."""
        rows = read_halves(self.path)
        if rows is None or rows.shape != self.shape or rows.dtype != np.float16:
            return None
        return np.split(rows, np.cumsum(self.counts)[:-1])

    def write(self, pieces: Iterable[tuple[int, Halves]]) -> None:
        """Write pieces, each a class and its next positives, float16 (n, F)."""
        size = 2 * self.shape[1]
        header = {"descr": "<f2", "fortran_order": False, "shape": self.shape}
        # By write(), not through a mapping: there a full disk would end the process by a signal.
        with replace_file(self.path) as temporary, temporary.open("wb") as file:
            npy.write_array_header_1_0(file, header)
            ends = file.tell() + size * np.cumsum([0, *self.counts[:-1]])
            for c, rows in pieces:
                file.seek(int(ends[c]))
                file.write(np.ascontiguousarray(rows, "<f2").tobytes())
                ends[c] += size * len(rows)
