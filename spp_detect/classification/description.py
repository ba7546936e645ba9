"""Descriptions of photographs: a vector each, and how alike two of them are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data import DEFAULT_MAX_SIDE, read_photo
from spp_detect.progress import track

Rows = NDArray[np.float32]
Photo = NDArray[np.uint8]


class Description(NamedTuple):
    """How a photograph is described.

    Attributes
    ----------
    describe : callable
        Gives the vector, float32 ``(D,)``, of a photograph, uint8 ``(H, W, 3)``.
    compare : callable
        Gives the kernel, float32 ``(N, M)``, of vectors ``(N, D)`` and ``(M, D)``.
    """

    describe: Callable[[Photo], Rows]
    compare: Callable[[Rows, Rows], Rows]


def multiply(one: Rows, other: Rows) -> Rows:
    """Compare vectors (N, D) and (M, D) by their inner products, (N, M): the linear kernel."""
    return one @ other.T


def normalise(vector: Rows) -> Rows:
    """Bring a vector (D,) to length 1; zeros stay.

    Examples
    --------
    >>> normalise(np.array([3, 4], np.float32)).round(1)
    array([0.6, 0.8], dtype=float32)
    """
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def describe_files(
    paths: Sequence[Path],
    describe: Callable[[Photo], Rows],
    max_side: int = DEFAULT_MAX_SIDE,
) -> Rows:
    """Read photographs one by one and describe each.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        N files, at least one.
    describe : callable
        As a `Description` has it.
    max_side : int
        Widest and highest photograph accepted, in pixels.

    Returns
    -------
    float32 (N, D)
        In the order of the files.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    table: Rows | None = None
    for row, photo in enumerate(track(_read(paths, max_side), "features", len(paths))):
        vector = describe(photo)
        if table is None:
            table = np.empty((len(paths), len(vector)), np.float32)
        table[row] = vector
    assert table is not None
    return table


def _read(paths: Sequence[Path], max_side: int) -> Iterable[Photo]:
    return (read_photo(path, max_side) for path in paths)
