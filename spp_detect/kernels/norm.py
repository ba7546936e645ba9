"""Caffe's local response normalisation within a channel, in one pass on the CPU; by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

SIZE = 3
ALPHA = 5e-5
FACTOR = np.float32(ALPHA / SIZE**2)


def normalise_within_channel(x: torch.Tensor) -> torch.Tensor:
    """Compute x · (1 + α/9 · Σ x²)^−¾, the sum over the 3 × 3 neighbours, zeros outside.

    Parameters
    ----------
    x : float (N, C, H, W)
        Maps.

    Returns
    -------
    float (N, C, H, W)
        Of the same type; channels last in memory where the CPU computes it.
    """
    if x.device.type != "cpu" or x.dtype == torch.float64:
        return normalise_with_torch(x)
    normed: torch.Tensor = _Norm.apply(x)
    return normed


class _Norm(torch.autograd.Function):
    """The norm and its gradient by numba, in few passes over the memory; torch's take many."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        rows = _as_rows(x)
        normed = np.empty_like(rows)
        for one, out in zip(rows, normed, strict=True):
            _normalise(one, FACTOR, out)
        return torch.from_numpy(normed).permute(0, 3, 1, 2).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        rows, given = _as_rows(x), _as_rows(gradients[0])
        found = np.empty_like(rows)
        for one, own, out in zip(rows, given, found, strict=True):
            _differentiate(one, own, FACTOR, np.empty_like(one), out)
        return torch.from_numpy(found).permute(0, 3, 1, 2).to(x.dtype)


def _as_rows(maps: torch.Tensor) -> NDArray[np.float32]:
    """Maps (N, C, H, W) as float32 (N, H, W, C), of which each image's lies together."""
    rows: NDArray[np.float32] = maps.detach().float().permute(0, 2, 3, 1).contiguous().numpy()
    return rows


def normalise_with_torch(x: torch.Tensor) -> torch.Tensor:
    """Compute the same on any device and with a gradient."""
    mean = functional.avg_pool2d(x * x, SIZE, stride=1, padding=SIZE // 2)
    return x * (1 + ALPHA * mean).pow(-0.75)


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add_rows(one, other, y):  # type: ignore[no-untyped-def]
    """Sum products of two arrays over a row and its neighbours; a column more on each side."""
    height, width, channels = one.shape
    sums = np.zeros((width + 2, channels), np.float32)
    for near in range(max(y - 1, 0), min(y + 2, height)):
        for column in range(width):
            for c in range(channels):
                sums[column + 1, c] += one[near, column, c] * other[near, column, c]
    return sums


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=True)
def _normalise(x, alpha, normed):  # type: ignore[no-untyped-def]
    height, width, channels = x.shape
    for y in numba.prange(height):
        sums = _add_rows(x, x, y)
        for column in range(width):
            for c in range(channels):
                near_sum = sums[column, c] + sums[column + 1, c] + sums[column + 2, c]
                root = np.sqrt(np.float32(1) + alpha * near_sum)
                normed[y, column, c] = x[y, column, c] / (root * np.sqrt(root))


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=True)
def _differentiate(x, given, alpha, scaled, found):  # type: ignore[no-untyped-def]
    """Compute g s^-3/4 - 3/2 alpha x (sum over the neighbours of x g s^-7/4), s the norm's sum."""
    height, width, channels = x.shape
    for y in numba.prange(height):
        sums = _add_rows(x, x, y)
        for column in range(width):
            for c in range(channels):
                near_sum = sums[column, c] + sums[column + 1, c] + sums[column + 2, c]
                s = np.float32(1) + alpha * near_sum
                root = np.sqrt(s)
                found[y, column, c] = given[y, column, c] / (root * np.sqrt(root))
                scaled[y, column, c] = found[y, column, c] / s
    for y in numba.prange(height):
        sums = _add_rows(x, scaled, y)
        for column in range(width):
            for c in range(channels):
                near_sum = sums[column, c] + sums[column + 1, c] + sums[column + 2, c]
                change = np.float32(1.5) * alpha * x[y, column, c] * near_sum
                found[y, column, c] -= change
