"""Window pooling on the CPU, compiled by numba."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray


def pool_on_cpu(
    feature_map: NDArray[np.float32], cells: NDArray[np.int32], levels: tuple[int, ...]
) -> NDArray[np.float32]:
    """Pool windows as `kernels.pool_windows` does, over NumPy arrays."""
    channels = feature_map.shape[2]
    pooled = np.empty((len(cells), channels * sum(n * n for n in levels)), np.float32)
    _pool(np.ascontiguousarray(feature_map), cells, np.array(plan_levels(levels)), pooled)
    return pooled


def plan_levels(levels: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Say for each level from what it is pooled: (n, first bin, source level's index or -1).

    Where n divides m, every bin of level n is exactly the union of m/n × m/n bins of level m:
    floor(i·h/n) = floor((i·m/n)·h/m), and neighbouring bins leave no gap. Such a level is pooled
    from those bins instead of from the map.
    """
    plan = []
    first_bin = 0
    for k, n in enumerate(levels):
        sources = [j for j in range(k) if levels[j] % n == 0]
        source = min(sources, key=lambda j: levels[j]) if sources else -1
        plan.append((n, first_bin, source))
        first_bin += n * n
    return plan


@numba.njit(parallel=True, cache=True, nogil=True)
def _pool(feature_map, cells, plan, pooled):  # type: ignore[no-untyped-def]
    channels = feature_map.shape[2]
    bins = pooled.shape[1] // channels
    for w in numba.prange(len(cells)):
        maxima = np.empty((bins, channels), np.float32)
        left, top = cells[w, 0], cells[w, 1]
        width, height = cells[w, 2] - left + 1, cells[w, 3] - top + 1
        for k in range(len(plan)):
            n, first, source = plan[k]
            if source >= 0:
                _join_bins(maxima, plan[source, 0], plan[source, 1], n, first)
            else:
                _pool_level(feature_map, left, top, width, height, n, maxima[first:])
            for c in range(channels):
                for b in range(n * n):
                    pooled[w, first * channels + c * n * n + b] = maxima[first + b, c]


@numba.njit(cache=True, nogil=True)
def _pool_level(feature_map, left, top, width, height, n, maxima):  # type: ignore[no-untyped-def]
    for i in range(n):
        y0, y1 = top + i * height // n, top + ((i + 1) * height + n - 1) // n
        for j in range(n):
            x0, x1 = left + j * width // n, left + ((j + 1) * width + n - 1) // n
            row = maxima[i * n + j]
            row[:] = feature_map[y0, x0]
            for y in range(y0, y1):
                for x in range(x0, x1):
                    _raise_to(row, feature_map[y, x])


@numba.njit(cache=True, nogil=True)
def _join_bins(maxima, m, source, n, first):  # type: ignore[no-untyped-def]
    ratio = m // n
    for i in range(n):
        for j in range(n):
            row = maxima[first + i * n + j]
            row[:] = maxima[source + i * ratio * m + j * ratio]
            for y in range(i * ratio, (i + 1) * ratio):
                for x in range(j * ratio, (j + 1) * ratio):
                    _raise_to(row, maxima[source + y * m + x])


@numba.njit(cache=True, nogil=True, inline="always")
def _raise_to(row, values):  # type: ignore[no-untyped-def]
    for c in range(len(row)):
        row[c] = values[c] if values[c] > row[c] else row[c]
