"""Max pooling of whole maps on the CPU, for a trunk; by numba.

torch's own also writes the place of every maximum, which only a gradient needs.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch.nn import functional

from spp_detect.kernels.cpu import LOWER, SIGN
from spp_detect.kernels.memory import Recycler

_results = Recycler()


def pool_maps(
    maps: torch.Tensor, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> torch.Tensor:
    """Compute what `torch.nn.functional.max_pool2d` does.

    Parameters
    ----------
    maps : float (N, C, H, W)
        Without NaN, which is lost where it is not the first of its cells. What is float32 or
        bfloat16, on the CPU, channels last in memory and without a gradient is pooled here, the
        rest by torch.
    kernel, stride, padding : int
        In cells.
    ceil_mode : bool
        Whether windows may begin inside the map and end outside.

    Returns
    -------
    float (N, C, h, w)
        Of the type and the memory format of `maps`.
    """
    learning = maps.requires_grad and torch.is_grad_enabled()
    last = maps.is_contiguous(memory_format=torch.channels_last)
    known = maps.dtype in (torch.float32, torch.bfloat16)
    if learning or not last or not known or maps.device.type != "cpu":
        return functional.max_pool2d(maps, kernel, stride, padding, ceil_mode=ceil_mode)
    values = maps.detach().permute(0, 2, 3, 1)
    numbers = (values.view(torch.int16) if values.element_size() == 2 else values).numpy()
    count, height, width, channels = numbers.shape
    sides = (_count(side, kernel, stride, padding, ceil_mode) for side in (height, width))
    pooled = _results.take((count, *sides, channels), numbers.dtype)
    _pool(numbers, kernel, stride, padding, pooled)
    return torch.from_numpy(pooled).view(maps.dtype).permute(0, 3, 1, 2)


def _count(side: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Windows along a side: the last begins inside the map or its first padding."""
    free = side + 2 * padding - kernel
    count = (-(-free // stride) if ceil_mode else free // stride) + 1
    return count - 1 if ceil_mode and (count - 1) * stride >= side + padding else count


@numba.njit(parallel=True, cache=True, nogil=True)
def _pool(maps, kernel, stride, padding, pooled):  # type: ignore[no-untyped-def]
    height, width, channels = maps.shape[1:]
    rows, columns = pooled.shape[1:3]
    for r in numba.prange(len(maps) * rows):
        one = maps[r // rows].reshape(height, width * channels)
        top = r % rows * stride - padding
        line = np.empty(width * channels, maps.dtype)
        _join_rows(one[max(top, 0) : min(top + kernel, height)], line)
        cells = line.reshape(width, channels)
        for x in range(columns):
            left = x * stride - padding
            out = pooled[r // rows, r % rows, x]
            _join_cells(cells[max(left, 0) : min(left + kernel, width)], out)


@numba.njit(cache=True, nogil=True, inline="always")
def _join_rows(rows, out):  # type: ignore[no-untyped-def]
    """Maxima (K,) of rows (n, K), as keys; up to three rows in one go."""
    p, q, r = rows[0], rows[min(1, len(rows) - 1)], rows[-1]
    for k in range(len(out)):
        out[k] = max(max(_turn(p[k]), _turn(q[k])), _turn(r[k]))
    for row in rows[2:-1]:
        for k in range(len(out)):
            out[k] = max(out[k], _turn(row[k]))


@numba.njit(cache=True, nogil=True, inline="always")
def _join_cells(cells, out):  # type: ignore[no-untyped-def]
    """Maxima (C,) of keys (n, C), as what they stand for."""
    p, q, r = cells[0], cells[min(1, len(cells) - 1)], cells[-1]
    for c in range(len(out)):
        out[c] = max(max(p[c], q[c]), r[c])
    for cell in cells[2:-1]:
        for c in range(len(out)):
            out[c] = max(out[c], cell[c])
    for c in range(len(out)):
        out[c] = _turn(out[c])


def _turn(value):  # type: ignore[no-untyped-def]
    """Turn bits of half precision into a key of the same order, or back; floats are their own."""


@overload(_turn, inline="always")
def _turn_by_type(value):  # type: ignore[no-untyped-def]
    if isinstance(value, types.Integer):
        return lambda value: np.int16(value ^ ((value >> SIGN) & LOWER))
    return lambda value: value
