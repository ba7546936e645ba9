"""Window pooling on a GPU, by Triton: maxima over blocks of cells, then one pass per level."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

DEPTH = 4  # tables of maxima over blocks of 1, 2, 4 and 8 cells along either axis
CHANNELS = 64  # of one program


def pool_on_gpu(
    feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
) -> torch.Tensor:
    """Pool windows as `kernels.pool_windows` does, on the GPU where the map is."""
    channels = feature_map.shape[2]
    length = channels * sum(n * n for n in levels)
    pooled = feature_map.new_empty((len(cells), length))
    if not len(cells):
        return pooled
    tables, cells = _tabulate(feature_map), cells.contiguous()
    sizes = (*feature_map.shape, length)
    grid = (len(cells), triton.cdiv(channels, CHANNELS))
    first = 0
    for n in levels:
        bins = triton.next_power_of_2(n * n)
        _pool_level[grid](tables, cells, pooled, *sizes, first, n, bins, DEPTH, CHANNELS)
        first += channels * n * n
    return pooled


def _tabulate(feature_map: torch.Tensor) -> torch.Tensor:
    """Maxima over blocks that start at a cell: (A, A, H, W, C), blocks of 2^a rows, 2^b columns.

    Blocks that would leave the map hold anything.
    """
    height, width, _ = feature_map.shape
    tables = feature_map.new_empty((DEPTH, DEPTH, *feature_map.shape))
    tables[0, 0] = feature_map
    for a in range(1, DEPTH):
        step, table = 1 << (a - 1), tables[a - 1, 0]
        if height > step:
            torch.maximum(table[:-step], table[step:], out=tables[a, 0, :-step])
    for b in range(1, DEPTH):
        step, table = 1 << (b - 1), tables[:, b - 1]
        if width > step:
            torch.maximum(table[:, :, :-step], table[:, :, step:], out=tables[:, b, :, :-step])
    return tables


@triton.jit(do_not_specialize=["height", "width"])
def _pool_level(  # type: ignore[no-untyped-def]
    tables,
    cells,
    pooled,
    height,
    width,
    channels,
    length,
    first,
    N: tl.constexpr,
    BINS: tl.constexpr,
    DEPTH: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Pool one window into the N × N bins of a level, for some channels."""
    window = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    bins = tl.arange(0, BINS)
    left, top = tl.load(cells + 4 * window), tl.load(cells + 4 * window + 1)
    columns = tl.load(cells + 4 * window + 2) - left + 1
    rows = tl.load(cells + 4 * window + 3) - top + 1
    # The padding repeats the last row of bins.
    i, j = tl.minimum(bins // N, N - 1), bins % N
    y0, y1 = top + i * rows // N, top + ((i + 1) * rows + N - 1) // N
    x0, x1 = left + j * columns // N, left + ((j + 1) * columns + N - 1) // N
    # Blocks no longer than the shortest bin; the longest has two cells more.
    a, b = _find_depth(rows // N, DEPTH), _find_depth(columns // N, DEPTH)
    tall, wide = 1 << a, 1 << b
    table = tables + (a * DEPTH + b).to(tl.int64) * height * width * channels
    inside = c[None, :] < channels
    offset = (y0 * width + x0)[:, None] * channels + c[None, :]
    maxima = tl.load(table + offset, inside).to(tl.float32)
    for step in range(0, rows // N + 2, tall):
        y = tl.minimum(y0 + step, y1 - tall)
        for across in range(0, columns // N + 2, wide):
            x = tl.minimum(x0 + across, x1 - wide)
            offset = (y * width + x)[:, None] * channels + c[None, :]
            maxima = tl.maximum(maxima, tl.load(table + offset, inside).to(tl.float32))
    place = pooled + window * length + first + c[:, None] * (N * N) + bins[None, :]
    tl.store(place, tl.trans(maxima), (c[:, None] < channels) & (bins[None, :] < N * N))


@triton.jit
def _find_depth(side, DEPTH: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest block that is no longer than a side: 0 … DEPTH - 1."""
    a = 0
    for k in tl.static_range(1, DEPTH):
        a += (side >= 1 << k).to(tl.int32)
    return a
