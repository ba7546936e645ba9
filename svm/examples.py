"""A class's examples where they do not all fit in memory: read from disk a block at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


class Table(Protocol):
    """Rows that may lie on disk, as an array mapped into memory, or as `SomeRows` of one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, D)."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Of their values."""

    def __len__(self) -> int:
        """How many rows."""

    def __getitem__(self, rows: Any, /) -> Any:
        """Read rows by their numbers, int64 ``(n,)``, or a slice of them: float ``(n, D)``."""


class SomeRows:
    """Some rows of a table, which stay where they are until they are read.

    Parameters
    ----------
    table : numpy.ndarray
        Float ``(N, D)``.
    rows : numpy.ndarray
        Int64 ``(n,)``, their numbers.
    """

    def __init__(self, table: Table, rows: Numbers) -> None:
        self.table = table
        self.rows = rows
        self.shape = (len(rows), *table.shape[1:])
        self.dtype = table.dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Numbers | slice, /) -> NDArray[np.floating]:
        read: NDArray[np.floating] = self.table[self.rows[rows]]
        return read


class StoredExamples:
    """Positives, and after them negatives that are written to a file without a name.

    Parameters
    ----------
    positives : numpy.ndarray or SomeRows
        Float ``(P, D)``; negatives are stored in their precision.
    keys : numpy.ndarray
        Int64 ``(M,)``, increasing, of the negatives.
    fetch : callable
        Writes the features of keys into its second argument, float32 ``(n, D)``.
    factor : float
        On all features that are read.
    most : int
        Examples in memory at once.
    folder : Path, optional
        Where the file lies; it goes with the object. The system's for such files if not given.
    """

    def __init__(
        self,
        positives: Table,
        keys: Numbers,
        fetch: Callable[[Numbers, NDArray[np.float32]], None],
        factor: float,
        most: int,
        folder: Path | None = None,
    ) -> None:
        self.positives = positives
        self.factor = np.float32(factor)
        self.most = most
        shape = len(keys), positives.shape[1]
        self.negatives: NDArray[np.floating] = np.empty((0, shape[1]), positives.dtype)
        if not len(keys):
            return
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            for start in range(0, len(keys), most):
                some = keys[start : start + most]
                rows = np.empty((len(some), shape[1]), np.float32)
                fetch(some, rows)
                _write(file, rows.astype(positives.dtype, copy=False), folder)
            self.negatives = np.memmap(file, positives.dtype, "r", shape=shape)

    def __len__(self) -> int:
        return len(self.positives) + len(self.negatives)

    def read(self, rows: Numbers) -> NDArray[np.float32]:
        """Read examples by their increasing numbers, positives first: float32 ``(n, D)``."""
        first = int(np.searchsorted(rows, len(self.positives)))
        examples = np.empty((len(rows), self.positives.shape[1]), np.float32)
        examples[:first] = self.positives[rows[:first]]
        examples[first:] = self.negatives[rows[first:] - len(self.positives)]
        examples *= self.factor
        return examples

    def score(
        self, decide: Callable[[NDArray[np.float32]], NDArray[np.floating]]
    ) -> NDArray[np.floating]:
        """Score the negatives, as many at once as may be in memory: float ``(M,)``."""
        numbers = np.arange(len(self.positives), len(self))
        parts = [
            decide(self.read(numbers[i : i + self.most])) for i in range(0, len(numbers), self.most)
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _write(file: IO[bytes], rows: NDArray[np.floating], folder: Path | None) -> None:
    # By write(), not through a mapping: there a full disk would end the process by a signal.
    left = rows.data.cast("B")
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        error.filename = str(folder or tempfile.gettempdir())
        raise
