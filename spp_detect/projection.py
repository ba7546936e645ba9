"""From a window in the photograph to cells of the map, and the choice of scale.

Paper: section 4.3 and appendix A; the official release differs, and both rules are here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAPER_TARGET = 224.0
RELEASE_TARGET = 13 * 16.0
RELEASE_OFFSET_IN_STRIDES = 6.5 / 16


@dataclass(frozen=True)
class CellGrid:
    """Where the cells of a map lie in the resized photograph.

    Attributes
    ----------
    stride : int
        Pixels between the centres of neighbouring cells.
    centre : float
        0-based pixel on which the receptive field of cell 0 is centred.
    """

    stride: int
    centre: float


def project_windows(
    windows: NDArray[np.float32],
    scaling: tuple[float, float],
    map_size: tuple[int, int],
    grid: CellGrid,
    rule: str = "release",
) -> NDArray[np.int32]:
    """Project windows onto the cells of one map (paper, appendix A).

    A corner is moved to the outermost cell whose receptive field is centred inside the window:
    strictly in the paper, up to 1.5 pixels outside (at stride 16) in the release. A window
    that inverts becomes its middle cell, and everything is clamped to the map, so that no window
    is ever empty.

    Parameters
    ----------
    windows : float32 (N, 4)
        x1 y1 x2 y2, half-open pixels of the original photograph.
    scaling : tuple of float
        So many resized pixels for so many original ones, between pixel centres. A coordinate is
        multiplied, then divided, as in the release: ties come out exact.
    map_size : (height, width)
        Of the map in cells.
    grid : CellGrid
        Stride and centre of the trunk.
    rule : str
        "release" or "paper".

    Returns
    -------
    int32 (N, 4)
        Left, top, right, bottom cell, 0-based, inclusive.
    """
    return clamp_cells(locate_windows(windows, scaling, grid, rule), map_size)


def locate_windows(
    windows: NDArray[np.float32], scaling: tuple[float, float], grid: CellGrid, rule: str
) -> NDArray[np.int32]:
    """Project windows as `project_windows` does, onto a map without ends: int32 (N, 4)."""
    offset = grid.stride * (RELEASE_OFFSET_IN_STRIDES if rule == "release" else 0.5)
    pixels = np.asarray(windows, np.float64).reshape(-1, 4) - (0, 0, 1, 1)  # inclusive corners
    moved = pixels * scaling[0] / scaling[1] - grid.centre
    first = np.floor((moved[:, :2] + offset) / grid.stride + 0.5).astype(np.int64)
    last = np.ceil((moved[:, 2:] - offset) / grid.stride - 0.5).astype(np.int64)
    inverted = first > last
    middle = (first + last) // 2
    cells = np.where(inverted, middle, first), np.where(inverted, middle, last)
    return np.concatenate(cells, axis=1).astype(np.int32)


def clamp_cells(cells: NDArray[np.int32], map_size: Sequence[int]) -> NDArray[np.int32]:
    """Move cells that lie outside a map (height, width) to its nearest: int32 (N, 4)."""
    limit = np.array([map_size[1], map_size[0]] * 2, np.int32) - 1
    return np.clip(cells, 0, limit)


def choose_scales(
    windows: NDArray[np.float32],
    scales: NDArray[np.float64],
    short_side: int,
    rule: str = "release",
) -> NDArray[np.int64]:
    """Choose for each window the scale at which it comes nearest to the training size.

    The paper takes the scale at which the window's area is closest to 224² (section 4.1); the
    release the one closest to 208 · short side / sqrt(area), rounded.

    Parameters
    ----------
    windows : float32 (N, 4)
        In pixels of the original photograph.
    scales : float64 (S,)
        Short sides in pixels of the resized photographs.
    short_side : int
        Short side in pixels of the original photograph.
    rule : str
        "release" or "paper".

    Returns
    -------
    int64 (N,)
        Indices into `scales`.
    """
    corners = np.asarray(windows, np.float64).reshape(-1, 4)
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    if rule == "release":
        wanted = np.floor(RELEASE_TARGET * short_side / np.sqrt(np.maximum(area, 1e-6)) + 0.5)
        distance = np.abs(np.asarray(scales)[None, :] - wanted[:, None])
    else:
        areas = area[:, None] * (np.asarray(scales)[None, :] / short_side) ** 2
        distance = np.abs(areas - PAPER_TARGET**2)
    return np.argmin(distance, axis=1)


def unique_rows(
    rows: NDArray[np.int32] | NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find windows that land on the same cells, or are the same: they have the same features.

    Parameters
    ----------
    rows : int32 or float32 (N, K)
        Cells or corners.

    Returns
    -------
    first : int64 (U,)
        Increasing: the first row of each distinct kind.
    inverse : int64 (N,)
        `rows[first][inverse]` equals `rows`.
    """
    keys = _pack(rows)
    axis = None if keys.ndim == 1 else 0
    _, first, inverse = np.unique(keys, axis=axis, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[inverse.reshape(-1)]


def _pack(rows: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.generic]:
    """Turn each row of integers into one of 64 bits, which sorts faster; others stay rows."""
    if rows.dtype.kind != "i" or not len(rows):
        return rows
    columns = rows.T.astype(np.int64)
    columns -= columns.min(axis=1, keepdims=True)
    spans = [int(column.max()) + 1 for column in columns]
    if math.prod(spans) > 1 << 63:
        return rows
    keys = np.zeros(len(rows), np.int64)
    for column, span in zip(columns, spans, strict=True):
        keys = keys * span + column
    return keys
