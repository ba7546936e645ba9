"""Window pooling with a gradient on the CPU: it keeps the cell of each maximum; by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.kernels.memory import Recycler

LEAST_CHANNELS = 16  # of a thread in the backward pass: it reads as many bins side by side

_results, _cells = Recycler(), Recycler()


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
        height, width, channels = values.shape
        shape = len(cells), channels * sum(n * n for n in levels)
        pooled = _results.take(shape, values.dtype)
        # Unsigned: for signed indices numba asks at each whether it is negative.
        cell = _cells.take(shape, np.uint16 if height * width <= 1 << 16 else np.uint32)
        ctx.levels = np.array(levels)
        _pool_located(values, cells.numpy(), ctx.levels, _find_finer(levels), pooled, cell)
        ctx.shape = values.shape
        ctx.cell = cell
        return torch.from_numpy(pooled)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Add each bin's gradient to the cell that it came from."""
        height, width, channels = ctx.shape
        gradient = np.ascontiguousarray(gradients[0].numpy())
        by_channel = np.zeros((channels, height * width), gradient.dtype)
        share = max(LEAST_CHANNELS, -(-channels // numba.get_num_threads()))
        _scatter(gradient, ctx.cell, ctx.levels, share, by_channel)
        on_map = torch.from_numpy(by_channel).reshape(channels, height, width)
        return on_map.permute(1, 2, 0), None, None


def _find_finer(levels: tuple[int, ...]) -> NDArray[np.int64]:
    """Levels from the finest to the coarsest, each with one whose bins make up its own, or -1.

    The n bins of a side are unions of those of m where n divides m: int64 (L, 2).
    """
    order = sorted(range(len(levels)), key=lambda k: -levels[k])
    finer = []
    for place, k in enumerate(order):
        multiples = [f for f in order[:place] if levels[f] % levels[k] == 0]
        finer.append((k, multiples[-1] if multiples else -1))
    return np.array(finer)


@numba.njit(parallel=True, cache=True, nogil=True)
def _pool_located(feature_map, cells, levels, finer, pooled, cell):  # type: ignore[no-untyped-def]
    channels = feature_map.shape[2]
    ends = np.cumsum(levels * levels)
    starts = ends - levels * levels
    for w in numba.prange(len(cells)):
        best = np.empty((ends[-1], channels), feature_map.dtype)
        where = np.empty(best.shape, cell.dtype)
        for k, f in finer:
            own = slice(starts[k], ends[k])
            if f < 0:
                _search_level(feature_map, cells[w], levels[k], best[own], where[own])
            else:
                theirs = slice(starts[f], ends[f])
                _merge_level(best[theirs], where[theirs], levels[k], best[own], where[own])
        for k in range(len(levels)):
            first, end, n = starts[k], ends[k], levels[k]
            place = slice(first * channels, end * channels)
            _store(best[first:end], pooled[w, place].reshape(channels, n * n))
            _store(where[first:end], cell[w, place].reshape(channels, n * n))


@numba.njit(cache=True, nogil=True)
def _search_level(feature_map, window, n, best, where):  # type: ignore[no-untyped-def]
    left, top = window[0], window[1]
    columns, rows = window[2] - left + 1, window[3] - top + 1
    for i in range(n):
        y0, y1 = top + i * rows // n, top + ((i + 1) * rows + n - 1) // n
        for j in range(n):
            x0, x1 = left + j * columns // n, left + ((j + 1) * columns + n - 1) // n
            values, places = best[i * n + j], where[i * n + j]
            values[:] = feature_map[y0, x0]
            places[:] = y0 * feature_map.shape[1] + x0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    place = places.dtype.type(y * feature_map.shape[1] + x)
                    _take_larger(feature_map[y, x], place, values, places)


@numba.njit(cache=True, nogil=True, inline="always")
def _take_larger(candidates, place, values, places):  # type: ignore[no-untyped-def]
    for c in range(len(values)):
        larger = candidates[c] > values[c]
        values[c] = candidates[c] if larger else values[c]
        places[c] = place if larger else places[c]


@numba.njit(cache=True, nogil=True)
def _merge_level(finer, finer_where, n, best, where):  # type: ignore[no-untyped-def]
    """Join a finer level's bins to n × n: of equal maxima the first cell, row by row."""
    m = round(np.sqrt(len(finer)))
    step = m // n
    for i in range(n):
        for j in range(n):
            values, places = best[i * n + j], where[i * n + j]
            values[:] = finer[i * step * m + j * step]
            places[:] = finer_where[i * step * m + j * step]
            for y in range(i * step, (i + 1) * step):
                for x in range(j * step, (j + 1) * step):
                    _take_first(finer[y * m + x], finer_where[y * m + x], values, places)


@numba.njit(cache=True, nogil=True, inline="always")
def _take_first(candidates, theirs, values, places):  # type: ignore[no-untyped-def]
    for c in range(len(values)):
        tie = (candidates[c] == values[c]) & (theirs[c] < places[c])
        take = (candidates[c] > values[c]) | tie
        values[c] = candidates[c] if take else values[c]
        places[c] = theirs[c] if take else places[c]


@numba.njit(cache=True, nogil=True)
def _store(bins, out):  # type: ignore[no-untyped-def]
    """Write bins (n², C) channel by channel."""
    for c in range(out.shape[0]):
        for b in range(out.shape[1]):
            out[c, b] = bins[b, c]


@numba.njit(parallel=True, cache=True, nogil=True)
def _scatter(gradient, cell, levels, share, by_channel):  # type: ignore[no-untyped-def]
    # A thread owns whole channels, so that no two add to one cell.
    channels = len(by_channel)
    for k in numba.prange((channels + share - 1) // share):
        for w in range(len(gradient)):
            first = 0
            for n in levels:
                for c in range(k * share, min(channels, (k + 1) * share)):
                    start = first + c * n * n
                    for b in range(start, start + n * n):
                        by_channel[c, cell[w, b]] += gradient[w, b]
                first += channels * n * n
