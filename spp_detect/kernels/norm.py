"""Caffe's local response normalisation within a channel, in one pass on the CPU; by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch.nn import functional

SIZE = 3
ALPHA = 5e-5


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
    learning = x.requires_grad and torch.is_grad_enabled()
    if x.device.type != "cpu" or learning or x.dtype == torch.float64:
        return normalise_with_torch(x)
    rows = x.detach().float().permute(0, 2, 3, 1).contiguous().numpy()
    normed = np.empty_like(rows)
    for one, out in zip(rows, normed, strict=True):
        _normalise(one, np.float32(ALPHA / SIZE**2), out)
    return torch.from_numpy(normed).permute(0, 3, 1, 2).to(x.dtype)


def normalise_with_torch(x: torch.Tensor) -> torch.Tensor:
    """Compute the same on any device and with a gradient."""
    mean = functional.avg_pool2d(x * x, SIZE, stride=1, padding=SIZE // 2)
    return x * (1 + ALPHA * mean).pow(-0.75)


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=True)
def _normalise(x, alpha, normed):  # type: ignore[no-untyped-def]
    height, width, channels = x.shape
    for y in numba.prange(height):
        # Sums of squares of three rows, one column more on each side.
        sums = np.zeros((width + 2, channels), np.float32)
        for near in range(max(y - 1, 0), min(y + 2, height)):
            for column in range(width):
                for c in range(channels):
                    sums[column + 1, c] += x[near, column, c] * x[near, column, c]
        for column in range(width):
            for c in range(channels):
                near_sum = sums[column, c] + sums[column + 1, c] + sums[column + 2, c]
                root = np.sqrt(np.float32(1) + alpha * near_sum)
                normed[y, column, c] = x[y, column, c] / (root * np.sqrt(root))
