"""Window pooling on the CPU, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.kernels.memory import Recycler

DEPTH = 4  # tables of maxima over blocks of 1, 2, 4 and 8 cells along either axis
MOST_TABLES = 1 << 28  # bytes: on a larger map windows are pooled cell by cell

# Of 16 bits: numba would compute with wider ones, eight times slower.
SIGN, LOWER = np.int16(15), np.int16(0x7FFF)

_results, _tables = Recycler(), Recycler()


def pool_on_cpu(
    feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
) -> torch.Tensor:
    """Pool windows as `kernels.pool_windows` does, on the CPU.

    Maxima over blocks of 2^a × 2^b cells come first, where the windows are many enough to pay for
    it: then a bin is covered by a few blocks, that may overlap, whatever its size.
    """
    values = feature_map.detach().contiguous()
    half = values.element_size() == 2
    numbers = make_keys(values.view(torch.int16).numpy()) if half else values.numpy()
    tables = _tabulate(numbers, cells.numpy())
    length = values.shape[2] * sum(n * n for n in levels)
    pooled = _results.take((len(cells), length), numbers.dtype)
    _pool(tables, cells.numpy(), np.array(levels), pooled)
    return torch.from_numpy(pooled).view(values.dtype)


def make_keys(bits: NDArray[np.int16]) -> NDArray[np.int16]:
    """Turn the bits of half precision into integers of the same order; twice: the bits again."""
    return bits ^ ((bits >> SIGN) & LOWER)


def _tabulate(numbers: NDArray[np.generic], cells: NDArray[np.int32]) -> NDArray[np.generic]:
    """Maxima over blocks that start at a cell: (A, A, H, W, C), blocks of 2^a rows, 2^b columns.

    Blocks that would leave the map hold anything.
    """
    height, width = numbers.shape[:2]
    sides = cells[:, 2:].astype(np.int64) - cells[:, :2] + 1
    visited = sides.prod(axis=1).sum()
    if visited < DEPTH**2 * height * width or numbers.nbytes * DEPTH**2 > MOST_TABLES:
        return numbers[None, None]
    tables = _tables.take((DEPTH, DEPTH, *numbers.shape), numbers.dtype)
    tables[0, 0] = numbers
    _fill_tables(tables)
    return tables


@numba.njit(parallel=True, cache=True, nogil=True)
def _fill_tables(tables):  # type: ignore[no-untyped-def]
    depth, _, height, width, _ = tables.shape
    for a in range(1, depth):
        step = 1 << (a - 1)
        for y in numba.prange(height - step):
            for x in range(width):
                p, q = tables[a - 1, 0, y, x], tables[a - 1, 0, y + step, x]
                _join(p, p, q, q, tables[a, 0, y, x])
    for y in numba.prange(height):
        for a in range(depth):
            for b in range(1, depth):
                step = 1 << (b - 1)
                for x in range(width - step):
                    p, q = tables[a, b - 1, y, x], tables[a, b - 1, y, x + step]
                    _join(p, p, q, q, tables[a, b, y, x])


@numba.njit(parallel=True, cache=True, nogil=True)
def _pool(tables, cells, levels, pooled):  # type: ignore[no-untyped-def]
    channels = tables.shape[4]
    for w in numba.prange(len(cells)):
        maxima = np.empty((levels.max() ** 2, channels), tables.dtype)
        first = 0
        for n in levels:
            end = first + n * n * channels
            _pool_level(tables, cells[w], n, maxima)
            _store(maxima, pooled[w, first:end].reshape(channels, n * n))
            first = end


@numba.njit(cache=True, nogil=True)
def _pool_level(tables, window, n, maxima):  # type: ignore[no-untyped-def]
    left, top = window[0], window[1]
    width, height = window[2] - left + 1, window[3] - top + 1
    for i in range(n):
        y0, y1 = top + i * height // n, top + ((i + 1) * height + n - 1) // n
        a = _find_depth(y1 - y0, len(tables))
        y2 = y1 - (1 << a)
        for j in range(n):
            x0, x1 = left + j * width // n, left + ((j + 1) * width + n - 1) // n
            b = _find_depth(x1 - x0, len(tables))
            x2 = x1 - (1 << b)
            row, table = maxima[i * n + j], tables[a, b]
            _join(table[y0, x0], table[y0, x2], table[y2, x0], table[y2, x2], row)
            if y1 - y0 > 2 << a or x1 - x0 > 2 << b:
                for y in range(y0, y1, 1 << a):
                    for x in range(x0, x1, 1 << b):
                        one = table[min(y, y2), min(x, x2)]
                        _join(one, one, one, row, row)


@numba.njit(cache=True, nogil=True, inline="always")
def _find_depth(side, depth):  # type: ignore[no-untyped-def]
    """The largest of the blocks that is no longer than a bin's side."""
    a = 0
    while a + 1 < depth and (2 << a) <= side:
        a += 1
    return a


@numba.njit(cache=True, nogil=True, inline="always")
def _join(p, q, r, s, row):  # type: ignore[no-untyped-def]
    for c in range(len(row)):
        row[c] = max(max(p[c], q[c]), max(r[c], s[c]))


@numba.njit(cache=True, nogil=True)
def _store(maxima, out):  # type: ignore[no-untyped-def]
    """Write bins (n², C) channel by channel, half precision as its bits."""
    channels, bins = out.shape
    if out.itemsize == 2:
        turn_keys(maxima[:bins].reshape(-1).view(np.int16))
    for c in range(channels):
        for b in range(bins):
            out[c, b] = maxima[b, c]


@numba.njit(cache=True, nogil=True)
def turn_keys(keys):  # type: ignore[no-untyped-def]
    """Turn keys (K,) into the bits of half precision that they stand for, in place."""
    for k in range(len(keys)):
        keys[k] ^= (keys[k] >> SIGN) & LOWER
