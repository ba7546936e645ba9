"""From a window in the photograph to cells of the map, and the choice of scale.

Paper: section 4.3 and appendix A; the official release differs, and both rules are here. Functions
of windows take arrays; those of boxes are the same for tensors, on whatever device these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
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
    cells: NDArray[np.int32] = locate_boxes(_as_boxes(windows), scaling, grid, rule).numpy()
    return cells


def locate_boxes(
    boxes: torch.Tensor, scaling: tuple[float, float], grid: CellGrid, rule: str
) -> torch.Tensor:
    """Project boxes, float (N, 4), as `locate_windows` does: int32 (N, 4)."""
    offset = grid.stride * (RELEASE_OFFSET_IN_STRIDES if rule == "release" else 0.5)
    starts, ends = boxes.double().split(2, dim=1)
    starts = starts * scaling[0] / scaling[1] - grid.centre
    ends = (ends - 1) * scaling[0] / scaling[1] - grid.centre  # the last pixel
    first = torch.floor((starts + offset) / grid.stride + 0.5).long()
    last = torch.ceil((ends - offset) / grid.stride - 0.5).long()
    inverted = first > last
    middle = (first + last) // 2
    cells = torch.where(inverted, middle, first), torch.where(inverted, middle, last)
    return torch.cat(cells, dim=1).int()


def clamp_cells(cells: NDArray[np.int32], map_size: Sequence[int]) -> NDArray[np.int32]:
    """Move cells that lie outside a map (height, width) to its nearest: int32 (N, 4)."""
    clamped: NDArray[np.int32] = clamp_located(torch.from_numpy(cells), map_size).numpy()
    return clamped


def clamp_located(cells: torch.Tensor, map_size: Sequence[int]) -> torch.Tensor:
    """Move cells, int32 (N, 4), as `clamp_cells` does."""
    x, y = cells.unflatten(1, (2, 2)).unbind(dim=2)
    clamped = x.clamp(0, map_size[1] - 1), y.clamp(0, map_size[0] - 1)
    return torch.stack(clamped, dim=2).flatten(1)


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
    boxes, sides = _as_boxes(windows), np.asarray(scales, float).tolist()
    chosen: NDArray[np.int64] = choose_scales_of(boxes, sides, short_side, rule).numpy()
    return chosen


def choose_scales_of(
    boxes: torch.Tensor, scales: Sequence[float], short_side: int, rule: str
) -> torch.Tensor:
    """Choose for each box, float (N, 4), as `choose_scales` does: int64 (N,)."""
    corners = boxes.double()
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    if rule == "release":
        wanted = torch.floor(RELEASE_TARGET * short_side / area.clamp(min=1e-6).sqrt() + 0.5)
        distances = [(wanted - scale).abs() for scale in scales]
    else:
        distances = [(area * (s / short_side) ** 2 - PAPER_TARGET**2).abs() for s in scales]
    return torch.stack(distances, dim=1).argmin(dim=1)  # of equal ones the first


def _as_boxes(windows: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.asarray(windows, np.float64).reshape(-1, 4))


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
