"""Window pooling with a gradient on the CPU: it keeps the cell of each maximum; by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch


class PoolWindows(torch.autograd.Function):
    """`kernels.pool_windows` on the CPU, differentiable in the map.

    A bin's gradient goes to the first of its cells, row by row, that holds its maximum, as that of
    adaptive max pooling does.
    """

    @staticmethod
    def forward(
        ctx: Any, feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
    ) -> torch.Tensor:
        """Pool float (H, W, C) at cells, int32 (N, 4), into (N, C · bins)."""
        values = np.ascontiguousarray(feature_map.detach().numpy())
        length = values.shape[2] * sum(n * n for n in levels)
        pooled = np.empty((len(cells), length), values.dtype)
        cell = np.empty(pooled.shape, np.int32)
        ctx.levels = np.array(levels)
        _pool_located(values, cells.numpy(), ctx.levels, pooled, cell)
        ctx.shape = values.shape
        ctx.cell = cell
        return torch.from_numpy(pooled)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Add each bin's gradient to the cell that it came from."""
        height, width, channels = ctx.shape
        gradient = np.ascontiguousarray(gradients[0].numpy())
        by_channel = np.zeros((channels, height * width), gradient.dtype)
        _scatter(gradient, ctx.cell, ctx.levels, by_channel)
        on_map = torch.from_numpy(by_channel).reshape(channels, height, width)
        return on_map.permute(1, 2, 0), None, None


@numba.njit(parallel=True, cache=True, nogil=True)
def _pool_located(feature_map, cells, levels, pooled, cell):  # type: ignore[no-untyped-def]
    width, channels = feature_map.shape[1], feature_map.shape[2]
    for w in numba.prange(len(cells)):
        left, top = cells[w, 0], cells[w, 1]
        columns, rows = cells[w, 2] - left + 1, cells[w, 3] - top + 1
        best = np.empty(channels, feature_map.dtype)
        where = np.empty(channels, np.int32)
        first = 0
        for n in levels:
            for b in range(n * n):
                i, j = b // n, b % n
                y0, y1 = top + i * rows // n, top + ((i + 1) * rows + n - 1) // n
                x0, x1 = left + j * columns // n, left + ((j + 1) * columns + n - 1) // n
                best[:] = feature_map[y0, x0]
                where[:] = y0 * width + x0
                for y in range(y0, y1):
                    for x in range(x0, x1):
                        values = feature_map[y, x]
                        for c in range(channels):
                            if values[c] > best[c]:
                                best[c] = values[c]
                                where[c] = y * width + x
                for c in range(channels):
                    pooled[w, first + c * n * n + b] = best[c]
                    cell[w, first + c * n * n + b] = where[c]
            first += channels * n * n


@numba.njit(parallel=True, cache=True, nogil=True)
def _scatter(gradient, cell, levels, by_channel):  # type: ignore[no-untyped-def]
    # A thread owns whole channels, so that no two add to one cell.
    channels = len(by_channel)
    for c in numba.prange(channels):
        for w in range(len(gradient)):
            first = 0
            for n in levels:
                start = first + c * n * n
                for b in range(start, start + n * n):
                    by_channel[c, cell[w, b]] += gradient[w, b]
                first += channels * n * n
