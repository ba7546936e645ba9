"""Mined negatives' features on disk, for photographs whose maps are not kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spp_detect.files import replace_file
from spp_detect.training.windows import Rows, make_keys, split_keys

Halves = NDArray[np.float16]
COMPACTING_FROM = 20_000  # windows: below that a file is not worth writing anew


class NegativesFile:
    """Pooled windows of photographs by their rows in the table, appended as they are mined.

    Without it each training of an SVM would compute the maps of all these photographs again.

    Parameters
    ----------
    folder : Path
        Gets the file.
    length : int
        Values of one window.

    Attributes
    ----------
    keys : int64 (N,)
        Whose windows the file holds, one a row, in its order.
    generation : int
        How often it was written anew; part of its name.
    """

    def __init__(self, folder: Path, length: int) -> None:
        self.folder = folder
        self.length = length
        self.keys: Rows
        self.restore(np.zeros(0, np.int64), 0)

    @property
    def path(self) -> Path:
        """The file of this generation; absent while it is empty."""
        return self.folder / f"negatives-{self.generation:03d}.bin"

    def __contains__(self, index: int) -> bool:
        return index in self._places

    def add(self, index: int, rows: Rows, features: Halves) -> None:
        """Append windows of one photograph, increasing rows and float16 (n, D), once each."""
        if not len(rows):
            return
        try:
            with self.path.open("r+b" if self.path.exists() else "wb") as file:
                # Over what an interrupted run wrote after its last state.
                file.seek(2 * self.length * len(self.keys))
                file.write(np.ascontiguousarray(features, "<f2").tobytes())
        except OSError as error:
            error.filename = error.filename or str(self.path)
            raise
        self._places[index] = len(self.keys), rows
        self.keys = np.concatenate([self.keys, make_keys(index, rows)])

    def read(self, index: int, rows: Rows) -> Halves:
        """Read windows of a photograph that were added, float16 (n, D)."""
        start, own = self._places[index]
        return np.asarray(self._map()[start + np.searchsorted(own, rows)])

    def compact(self, held: Rows) -> None:
        """Write a new generation without the windows that are not among `held`, if it pays.

        The old one stays until `remove_old`, for a run that is interrupted before it has saved
        which is the newest.
        """
        kept = np.isin(self.keys, held)
        if len(self.keys) < COMPACTING_FROM or kept.sum() > len(self.keys) / 2:
            return
        old, keys = self._map(), self.keys[kept]
        self.generation += 1
        with replace_file(self.path) as temporary, temporary.open("wb") as file:
            for part in _cut(np.flatnonzero(kept)):
                file.write(old[part].tobytes())
        self.restore(keys, self.generation)

    def remove_old(self) -> None:
        """Remove the files of all other generations."""
        for path in self.folder.glob("negatives-*.bin"):
            if path != self.path:
                path.unlink()

    def remove(self) -> None:
        """Remove all files."""
        self.restore(np.zeros(0, np.int64), 0)
        for path in self.folder.glob("negatives-*.bin"):
            path.unlink()

    def restore(self, keys: Rows, generation: int) -> None:
        """Go on with a file as it was when it held these windows; without it, with none."""
        self.generation = generation
        size = self.path.stat().st_size if self.path.is_file() else 0
        self.keys = keys if size >= 2 * self.length * len(keys) else keys[:0]
        self._places: dict[int, tuple[int, Rows]] = {}
        start = 0
        for index, rows in split_keys(self.keys):
            self._places[index] = start, rows
            start += len(rows)

    def _map(self) -> Halves:
        shape = len(self.keys), self.length
        return np.memmap(self.path, "<f2", "r", shape=shape)


def _cut(rows: NDArray[np.int64], count: int = 1000) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), count):
        yield rows[start : start + count]
