"""Window pooling with a gradient on the CPU: it keeps the cell of each maximum; by numba."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.kernels.cpu import make_keys, turn_keys
from spp_detect.kernels.memory import Recycler

LEAST_CHANNELS = 16  # of a thread in the backward pass: of a level of one bin, a cache line

_results, _places, _gradients = Recycler(), Recycler(), Recycler()


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
        contiguous = feature_map.detach().contiguous()
        if contiguous.element_size() == 2:
            # Added to 0, -0 becomes 0: their keys differ, and the first of equal cells is wanted.
            values = make_keys((contiguous + 0).view(torch.int16).numpy())
        else:
            values = contiguous.numpy()
        height, width, channels = values.shape
        shape = len(cells), channels * sum(n * n for n in levels)
        pooled = _results.take(shape, values.dtype)
        # Unsigned: for signed indices numba asks at each whether it is negative.
        place = _places.take(shape, np.uint16 if height * width <= 1 << 16 else np.uint32)
        ctx.levels = np.array(levels)
        _pool_located(values, cells.numpy(), ctx.levels, _find_finer(levels), pooled, place)
        ctx.shape = values.shape
        ctx.place = place
        return torch.from_numpy(pooled).view(contiguous.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Add each bin's gradient to the cell that it came from."""
        height, width, channels = ctx.shape
        gradient = gradients[0]
        if gradient.element_size() == 2:
            # Gradients of many windows are summed, which half precision would round away.
            floats = _gradients.take(tuple(gradient.shape), np.float32)
            gradient = torch.from_numpy(floats).copy_(gradient)
        by_bin = np.ascontiguousarray(gradient.numpy())
        by_channel = np.zeros((channels, height * width), by_bin.dtype)
        share = max(LEAST_CHANNELS, -(-channels // numba.get_num_threads()))
        _scatter(by_bin, ctx.place, ctx.levels, share, by_channel)
        on_map = torch.from_numpy(by_channel).reshape(channels, height, width)
        return on_map.permute(1, 2, 0).to(gradients[0].dtype), None, None


def _find_finer(levels: tuple[int, ...]) -> NDArray[np.int64]:
    """Order levels from the finest to the coarsest, each with a finer one that makes it up.

    n bins a side are unions of m bins where n divides m.

    Returns
    -------
    int64 (L, 2)
        Indices of levels; the second is -1 where no finer level serves.
    """
    order = sorted(range(len(levels)), key=lambda k: -levels[k])
    pairs = []
    for turn, k in enumerate(order):
        n = levels[k]
        multiples = [f for f in order[:turn] if levels[f] > n and levels[f] % n == 0]
        pairs.append((k, multiples[-1] if multiples else -1))
    return np.array(pairs)


@numba.njit(parallel=True, cache=True, nogil=True)
def _pool_located(feature_map, cells, levels, pairs, pooled, place):  # type: ignore[no-untyped-def]
    channels = feature_map.shape[2]
    ends = np.cumsum(levels * levels)
    starts = ends - levels * levels
    for w in numba.prange(len(cells)):
        best = np.empty((ends[-1], channels), feature_map.dtype)
        where = np.empty(best.shape, place.dtype)
        for k, f in pairs:
            own = slice(starts[k], ends[k])
            if f < 0:
                _search_level(feature_map, cells[w], levels[k], best[own], where[own])
            else:
                finer = slice(starts[f], ends[f])
                _merge_level(best[finer], where[finer], levels[k], best[own], where[own])
        if best.itemsize == 2:
            turn_keys(best.reshape(-1).view(np.int16))
        _store(best, levels, pooled[w])
        _store(where, levels, place[w])


@numba.njit(cache=True, nogil=True)
def _search_level(feature_map, window, n, best, where):  # type: ignore[no-untyped-def]
    left, top = window[0], window[1]
    columns, rows = window[2] - left + 1, window[3] - top + 1
    across = feature_map.shape[1]
    for i in range(n):
        y0, y1 = top + i * rows // n, top + ((i + 1) * rows + n - 1) // n
        for j in range(n):
            x0, x1 = left + j * columns // n, left + ((j + 1) * columns + n - 1) // n
            values, places = best[i * n + j], where[i * n + j]
            second = min(x0 + 1, x1 - 1)
            pair = places.dtype.type(y0 * across + x0), places.dtype.type(y0 * across + second)
            _take_larger_of_two(feature_map[y0, x0], feature_map[y0, second], pair, values, places)
            for y in range(y0, y1):
                for x in range(x0 + 2 * (y == y0), x1):
                    place = places.dtype.type(y * across + x)
                    _take_larger(feature_map[y, x], place, values, places)


@numba.njit(cache=True, nogil=True, inline="always")
def _take_larger_of_two(first, second, place, values, places):  # type: ignore[no-untyped-def]
    for c in range(len(values)):
        larger = second[c] > first[c]
        values[c] = second[c] if larger else first[c]
        places[c] = place[1] if larger else place[0]


@numba.njit(cache=True, nogil=True, inline="always")
def _take_larger(candidates, place, values, places):  # type: ignore[no-untyped-def]
    for c in range(len(values)):
        larger = candidates[c] > values[c]
        values[c] = candidates[c] if larger else values[c]
        places[c] = place if larger else places[c]


@numba.njit(cache=True, nogil=True)
def _merge_level(fine, fine_where, n, best, where):  # type: ignore[no-untyped-def]
    """Join a finer level's bins to n × n: of equal maxima the first cell, row by row."""
    m = round(np.sqrt(len(fine)))
    step = m // n
    for i in range(n):
        for j in range(n):
            values, places = best[i * n + j], where[i * n + j]
            k = i * step * m + j * step
            _take_first_of_two(fine[k : k + 2], fine_where[k : k + 2], values, places)
            for y in range(step):
                for x in range(2 * (y == 0), step):
                    b = k + y * m + x
                    _take_first(fine[b], fine_where[b], values, places)


@numba.njit(cache=True, nogil=True, inline="always")
def _take_first_of_two(pair, pair_places, values, places):  # type: ignore[no-untyped-def]
    for c in range(len(values)):
        tie = (pair[1, c] == pair[0, c]) & (pair_places[1, c] < pair_places[0, c])
        take = (pair[1, c] > pair[0, c]) | tie
        values[c] = pair[1, c] if take else pair[0, c]
        places[c] = pair_places[1, c] if take else pair_places[0, c]


@numba.njit(cache=True, nogil=True, inline="always")
def _take_first(candidates, candidates_places, values, places):  # type: ignore[no-untyped-def]
    for c in range(len(values)):
        tie = (candidates[c] == values[c]) & (candidates_places[c] < places[c])
        take = (candidates[c] > values[c]) | tie
        values[c] = candidates[c] if take else values[c]
        places[c] = candidates_places[c] if take else places[c]


@numba.njit(cache=True, nogil=True)
def _store(bins, levels, out):  # type: ignore[no-untyped-def]
    """Write bins (bins, C) level after level, each channel by channel.

    They are read in the order of memory and written across it, faster here than the reverse.
    """
    channels = bins.shape[1]
    first = 0
    for n in levels:
        end = first + n * n
        level = out[first * channels : end * channels].reshape(channels, n * n)
        for b in range(n * n):
            for c in range(channels):
                level[c, b] = bins[first + b, c]
        first = end


@numba.njit(parallel=True, cache=True, nogil=True)
def _scatter(gradient, place, levels, share, by_channel):  # type: ignore[no-untyped-def]
    # A thread owns whole channels, so that no two add to one cell. It takes three windows at a
    # time, which spares most of the loops' starts; the last ones are made three by zeros.
    channels, length, count = len(by_channel), gradient.shape[1], len(gradient)
    blank = np.zeros(length, gradient.dtype), np.zeros(length, place.dtype)
    for k in numba.prange((channels + share - 1) // share):
        for w in range(0, count, 3):
            values, places = gradient[w], place[w]
            values2, places2 = (gradient[w + 1], place[w + 1]) if w + 1 < count else blank
            values3, places3 = (gradient[w + 2], place[w + 2]) if w + 2 < count else blank
            first = 0
            for n in levels:
                at = np.uint64(first + k * share * n * n)  # unsigned, as places are
                for c in range(k * share, min(channels, (k + 1) * share)):
                    cells = by_channel[c]
                    for _ in range(n * n):
                        cells[places[at]] += values[at]
                        cells[places2[at]] += values2[at]
                        cells[places3[at]] += values3[at]
                        at += np.uint64(1)
                first += channels * n * n
