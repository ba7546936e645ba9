"""Window pooling on a GPU, by Triton: maxima over blocks of cells, then all levels at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
import triton
import triton.language as tl

DEPTH = 4  # tables of maxima over blocks of 1, 2, 4 and 8 cells along either axis
CHANNELS = 64  # of one program
MOST_TABLES = 1 << 30  # bytes: of a larger map there are fewer tables


def pool_on_gpu(
    maps: Sequence[torch.Tensor],
    numbers: torch.Tensor,
    cells: torch.Tensor,
    levels: tuple[int, ...],
) -> torch.Tensor:
    """Pool windows as `kernels.pool_on_maps` does, on the GPU where the maps are, in one launch."""
    channels = maps[0].shape[2]
    pooled = maps[0].new_empty((len(cells), channels * sum(n * n for n in levels)))
    if not len(cells):
        return pooled
    depth = choose_depth(maps)
    tables = _tabulate(maps, depth)
    places = describe_maps(tuple(one.shape for one in maps), depth, cells.device)
    grid, sizes, constants = lay_out(maps[0], cells, levels)
    described = describe_levels(levels, channels, cells.device)
    which = numbers.int().contiguous(), cells.contiguous()
    _pool[grid](tables, places, *which, described, pooled, *sizes[2:], DEPTH=depth, **constants)
    return pooled


def lay_out(
    feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
) -> tuple[tuple[int, int, int], tuple[int, ...], dict[str, Any]]:
    """Lay out a launch over windows, blocks of channels and levels.

    Returns
    -------
    grid : tuple of three int
        Programs along each.
    sizes : tuple of four int
        Of the map, then the length of a pooled window.
    constants : dict
        What a kernel is compiled for.
    """
    channels = feature_map.shape[2]
    grid = len(cells), triton.cdiv(channels, CHANNELS), len(levels)
    sizes = *feature_map.shape, channels * sum(n * n for n in levels)
    double = feature_map.dtype == torch.float64
    constants = {
        "BINS": triton.next_power_of_2(max(levels) ** 2),
        "CHANNELS": CHANNELS,
        "TYPE": tl.float64 if double else tl.float32,
    }
    return grid, sizes, constants


@lru_cache
def describe_levels(levels: tuple[int, ...], channels: int, device: torch.device) -> torch.Tensor:
    """Describe levels for a kernel: the side of each and where its values begin, int32 (L, 2)."""
    starts = accumulate((channels * n * n for n in levels[:-1]), initial=0)
    described = torch.tensor(list(zip(levels, starts, strict=True)), dtype=torch.int32)
    return described.to(device)


@lru_cache
def describe_maps(
    shapes: tuple[tuple[int, int, int], ...], depth: int, device: torch.device
) -> torch.Tensor:
    """Describe maps for a kernel: where the tables of each begin, height, width: int64 (M, 3)."""
    starts = accumulate((math.prod(one) * depth * depth for one in shapes[:-1]), initial=0)
    places = [(start, *one[:2]) for start, one in zip(starts, shapes, strict=True)]
    return torch.tensor(places).to(device)


def choose_depth(maps: Sequence[torch.Tensor]) -> int:
    """Choose how many sizes of blocks are tabulated along either axis: fewer of large maps."""
    size = sum(one.numel() * one.element_size() for one in maps)
    return max(d for d in range(1, DEPTH + 1) if d == 1 or size * d * d <= MOST_TABLES)


def _tabulate(maps: Sequence[torch.Tensor], depth: int) -> torch.Tensor:
    """Maxima over blocks that start at a cell, map after map in one piece of memory.

    Of each map (A, A, H, W, C), blocks of 2^a rows, 2^b columns; blocks that would leave the map
    hold anything.
    """
    if depth == 1 and len(maps) == 1:
        return maps[0].contiguous()
    sizes = [one.numel() * depth * depth for one in maps]
    memory = maps[0].new_empty(sum(sizes))
    for one, own in zip(maps, memory.split(sizes), strict=True):
        _fill_tables(one, own.view(depth, depth, *one.shape))
    return memory


def _fill_tables(feature_map: torch.Tensor, tables: torch.Tensor) -> None:
    height, width, _ = feature_map.shape
    tables[0, 0] = feature_map
    for a in range(1, len(tables)):
        step, table = 1 << (a - 1), tables[a - 1, 0]
        if height > step:
            torch.maximum(table[:-step], table[step:], out=tables[a, 0, :-step])
    for b in range(1, len(tables)):
        step, table = 1 << (b - 1), tables[:, b - 1]
        if width > step:
            torch.maximum(table[:, :, :-step], table[:, :, step:], out=tables[:, b, :, :-step])


@triton.jit
def _pool(  # type: ignore[no-untyped-def]
    tables,
    places,
    numbers,
    cells,
    levels,
    pooled,
    channels,
    length,
    BINS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TYPE: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Pool one window into the bins of one level, for some channels."""
    window = tl.program_id(0).to(tl.int64)
    place_of_map = places + 3 * tl.load(numbers + window)
    height, width = tl.load(place_of_map + 1), tl.load(place_of_map + 2).to(tl.int32)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n, first = tl.load(levels + 2 * tl.program_id(2)), tl.load(levels + 2 * tl.program_id(2) + 1)
    bins = tl.arange(0, BINS)
    x0, x1, columns = find_edges(cells + 4 * window, bins % n, n)
    # The padding repeats the last row of bins.
    y0, y1, rows = find_edges(cells + 4 * window + 1, tl.minimum(bins // n, n - 1), n)
    # Blocks no longer than the shortest bin; the longest has two cells more.
    a, b = _find_depth(rows // n, DEPTH), _find_depth(columns // n, DEPTH)
    tall, wide = 1 << a, 1 << b
    table = tables + tl.load(place_of_map) + (a * DEPTH + b) * height * width * channels
    inside = (c[None, :] < channels) & (bins[:, None] < n * n)
    offset = (y0 * width + x0)[:, None] * channels + c[None, :]
    maxima = tl.load(table + offset, inside, other=0).to(TYPE)
    for step in range(0, rows // n + 2, tall):
        y = tl.minimum(y0 + step, y1 - tall)
        for across in range(0, columns // n + 2, wide):
            x = tl.minimum(x0 + across, x1 - wide)
            offset = (y * width + x)[:, None] * channels + c[None, :]
            maxima = tl.maximum(maxima, tl.load(table + offset, inside, other=0).to(TYPE))
    place = pooled + window * length + first + c[:, None] * (n * n) + bins[None, :]
    tl.store(place, tl.trans(maxima), tl.trans(inside))


@triton.jit
def find_edges(corner, i, n):  # type: ignore[no-untyped-def]
    """Find along one axis where bins i of n begin and end, and the window's cells."""
    start = tl.load(corner)
    cells = tl.load(corner + 2) - start + 1
    return start + i * cells // n, start + ((i + 1) * cells + n - 1) // n, cells


@triton.jit
def _find_depth(side, DEPTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest block that is no longer than a side: 0 … DEPTH - 1."""
    a = 0
    for k in tl.static_range(1, DEPTH):
        a += (side >= 1 << k).to(tl.int32)
    return a
