"""Where a box lies relative to a window, as four numbers, and back."""

from __future__ import annotations

import numpy as np
import torch


class RegressionError(ValueError):
    """Input that cannot be regressed; the message is one line."""


# What the release and R-CNN add to every side of inclusive boxes (MATLAB's eps): a box one pixel
# wide has the side 0. Added to windows and truths alike, such a box beside itself keeps targets of
# 0, where 0 / 0 and log(0 / 0) would be NaN; beside another it has targets that are huge but finite
# and are undone exactly.
_EPS = float(np.finfo(np.float64).eps)


def encode(windows: np.ndarray, truths: np.ndarray, *, inclusive: bool = False) -> np.ndarray:
    """Return the regression targets that lead from windows to true boxes.

    For a window with centre (pcx, pcy) and sides (pw, ph) and a true box with centre (gcx, gcy)
    and sides (gw, gh): (gcx - pcx) / pw, (gcy - pcy) / ph, log(gw / pw), log(gh / ph), as in
    R-CNN (arXiv 1311.2524, appendix C), which the paper follows.

    Parameters
    ----------
    windows, truths : numpy.ndarray
        Shape ``(N, 4)``, x1 y1 x2 y2, 0-based, half-open, in pixels; every side above 0.
    inclusive : bool
        Measure as the release does: the side of a box is the distance between its first and its
        last pixel, one less than their number, and its centre is half of that past the first.
        The side of a box narrower than a pixel counts as 0.

    Returns
    -------
    numpy.ndarray
        Float64 ``(N, 4)``.

    Raises
    ------
    RegressionError
        On other shapes, on numbers that are not finite, on boxes without area.

    Examples
    --------
    >>> import numpy as np
    >>> encode([[10, 20, 30, 60]], [[20, 10, 30, 90]]).round(2)
    array([[ 0.25,  0.25, -0.69,  0.69]])
    >>> encode([[10, 20, 30, 60]], [[20, 10, 30, 90]], inclusive=True).round(2)
    array([[ 0.26,  0.26, -0.75,  0.71]])
    """
    windows = check_table(windows, 4, "windows")
    truths = check_table(truths, 4, "truths", len(windows))
    window_centres, window_sides = _measure(windows, "windows", inclusive)
    truth_centres, truth_sides = _measure(truths, "truths", inclusive)
    shifts = (truth_centres - window_centres) / window_sides
    return np.hstack([shifts, np.log(truth_sides / window_sides)])


def decode(
    windows: np.ndarray,
    targets: np.ndarray,
    size: tuple[int, int] | None = None,
    *,
    inclusive: bool = False,
) -> np.ndarray:
    """Return the boxes to which the targets lead; the inverse of `encode`.

    Parameters
    ----------
    windows : numpy.ndarray
        Shape ``(N, 4)``, x1 y1 x2 y2, 0-based, half-open, in pixels; every side above 0.
    targets : numpy.ndarray
        Shape ``(N, 4)``, as `encode` returns them.
    size : (width, height), optional
        Of the photograph, in pixels. Boxes are clipped to it; one that lies wholly outside
        becomes a box without area on the border.
    inclusive : bool
        As in `encode`, whose targets these are. Boxes are half-open all the same, and never
        narrower than a pixel.

    Returns
    -------
    numpy.ndarray
        Float32 ``(N, 4)``, x1 y1 x2 y2, half-open.

    Raises
    ------
    RegressionError
        On other shapes, on numbers that are not finite, on windows without area, on a size that
        is not positive, and, without ``size``, where a box grows beyond float32.

    Examples
    --------
    >>> import numpy as np
    >>> decode([[10, 20, 30, 60]], [[0.5, -0.25, np.log(2), -np.log(2)]]).round(3)
    array([[10., 20., 50., 40.]], dtype=float32)
    >>> decode([[10, 20, 30, 60]], [[0.5, -0.25, 0, 0]], size=(35, 100))
    array([[20., 10., 35., 50.]], dtype=float32)
    """
    windows = check_table(windows, 4, "windows")
    targets = check_table(targets, 4, "targets", len(windows))
    centres, sides = _measure(windows, "windows", inclusive)
    with np.errstate(over="ignore"):
        centres = centres + targets[:, :2] * sides
        halves = sides * np.exp(targets[:, 2:]) / 2
        boxes = np.hstack([centres - halves, centres + halves + int(inclusive)])
        if size is not None:
            boxes = np.clip(boxes, 0, np.tile(_check_size(size), 2))
        boxes = boxes.astype(np.float32)
    if not np.isfinite(boxes).all():
        raise RegressionError("targets lead to boxes beyond float32, expected sensible numbers")
    return boxes


def decode_tensor(
    windows: torch.Tensor, targets: torch.Tensor, size: tuple[int, int], *, inclusive: bool = False
) -> torch.Tensor:
    """Return the boxes that `decode` does, where the tensors lie, without waiting for them.

    Nothing is checked, as for that a GPU would have to be waited for.

    Parameters
    ----------
    windows, targets : torch.Tensor
        Float ``(..., 4)``, as of `decode`.
    size : (width, height)
        Of the photograph, in pixels.
    inclusive : bool
        As in `encode`.

    Returns
    -------
    torch.Tensor
        Float32 ``(..., 4)``, on the same device.

    Examples
    --------
    >>> import torch
    >>> windows, targets = torch.tensor([[10, 20, 30, 60]]), torch.tensor([[0.5, -0.25, 0, 0]])
    >>> decode_tensor(windows, targets, (35, 100))
    tensor([[20., 10., 35., 50.]])
    """
    first, last = windows.double().split(2, dim=-1)
    sides = last - first
    if inclusive:
        sides = (sides - 1).clamp(min=0) + _EPS
    shifts, growths = targets.double().split(2, dim=-1)
    centres = first + sides / 2 + shifts * sides
    halves = sides * growths.exp() / 2
    corners = centres - halves, centres + halves + int(inclusive)
    columns = [
        corner[..., axis].clamp(0, size[axis]) for corner in corners for axis in range(len(size))
    ]
    return torch.stack(columns, dim=-1).float()


def check_table(
    values: np.ndarray, columns: int | None, name: str, rows: int | None = None
) -> np.ndarray:
    """Return values as float64 ``(N, columns)``; raise RegressionError where they are not so."""
    table = np.asarray(values)
    check_shape(table, columns, name, rows)
    table = table.astype(np.float64, copy=False)
    if not np.isfinite(table).all():
        raise RegressionError(f"{name}: got NaN or infinity, expected finite numbers")
    return table


def check_shape(table: np.ndarray, columns: int | None, name: str, rows: int | None) -> None:
    """Raise RegressionError unless the array holds numbers, ``(rows, columns)``."""
    fits = table.ndim == 2 and columns in (None, table.shape[1]) and rows in (None, len(table))
    if not fits or table.dtype.kind not in "fiu":
        expected = ("N" if rows is None else rows, "D" if columns is None else columns)
        raise RegressionError(
            f"{name}: got {table.dtype} of shape {table.shape}, "
            f"expected numbers of shape ({expected[0]}, {expected[1]})"
        )


def _measure(boxes: np.ndarray, name: str, inclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the centres and the sides of boxes, ``(N, 2)`` each."""
    sides = boxes[:, 2:] - boxes[:, :2]
    if not (sides > 0).all():
        first = int(np.argmin((sides > 0).all(axis=1)))
        raise RegressionError(f"{name}: box {first} is {boxes[first].tolist()}, without area")
    if inclusive:
        sides = (sides - 1).clip(min=0) + _EPS
    return boxes[:, :2] + sides / 2, sides


def _check_size(size: tuple[int, int]) -> np.ndarray:
    sides = np.asarray(size, dtype=np.float64)
    if sides.shape != (2,) or not np.isfinite(sides).all() or not (sides > 0).all():
        raise RegressionError(f"size: got {size!r}, expected (width, height) above 0")
    return sides
