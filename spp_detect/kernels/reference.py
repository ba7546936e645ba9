"""Window pooling in plain torch: the reference, and what runs where no kernel is written."""

from __future__ import annotations

import torch

CHUNK_VALUES = 1 << 26  # values gathered at once: bounds the memory at 256 MB


def pool_with_torch(
    feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
) -> torch.Tensor:
    """Pool windows as `kernels.pool_windows` does, on any device and with a gradient.

    A table of maxima over blocks of 2^a × 2^b cells answers each bin with four look-ups, so that
    there is no loop over windows.
    """
    height, width, channels = feature_map.shape
    bins = sum(n * n for n in levels)
    if len(cells) == 0:
        return feature_map.new_zeros((0, bins * channels))
    table = _block_maxima(feature_map)
    cells = cells.long()
    step = max(1, CHUNK_VALUES // (4 * bins * channels))
    chunks = [_pool_chunk(table, part, levels, (height, width)) for part in cells.split(step)]
    return torch.cat(chunks)


def _block_maxima(feature_map: torch.Tensor) -> torch.Tensor:
    """Maxima over blocks that start at a cell: (A, B, H, W, C), blocks of 2^a rows, 2^b columns.

    Blocks that would leave the map are never looked up.
    """
    by_rows = [feature_map]
    while 2 ** len(by_rows) <= feature_map.shape[0]:
        by_rows.append(_double(by_rows[-1], 0, 2 ** (len(by_rows) - 1)))
    table = [torch.stack(by_rows)]
    while 2 ** len(table) <= feature_map.shape[1]:
        table.append(_double(table[-1], 2, 2 ** (len(table) - 1)))
    return torch.stack(table, dim=1)


def _double(blocks: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    shifted = blocks.narrow(dim, length, blocks.shape[dim] - length)
    last = blocks.narrow(dim, blocks.shape[dim] - length, length)
    return torch.maximum(blocks, torch.cat([shifted, last], dim))


def _pool_chunk(
    table: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...], size: tuple[int, int]
) -> torch.Tensor:
    pooled = []
    flat = table.flatten(0, 3)
    height, width = size
    for n in levels:
        left, right = _bin_edges(cells[:, 0], cells[:, 2], n)
        top, bottom = _bin_edges(cells[:, 1], cells[:, 3], n)
        log_w, log_h = _floor_log2(right - left), _floor_log2(bottom - top)
        columns = torch.stack([left, right - 2**log_w])[:, :, None, :]
        rows = torch.stack([top, bottom - 2**log_h])[:, :, :, None]
        block = (log_h[:, :, None] * table.shape[1] + log_w[:, None, :]) * height
        corners = [(block + r) * width + c for r in rows for c in columns]
        maxima = torch.stack([flat[index] for index in corners]).amax(0)
        pooled.append(maxima.permute(0, 3, 1, 2).flatten(1))
    return torch.cat(pooled, dim=1)


def _bin_edges(
    first: torch.Tensor, last: torch.Tensor, n: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and exclusive end of the n bins of each window along one axis, both (N, n)."""
    extent = (last - first + 1)[:, None]
    i = torch.arange(n, device=first.device)[None, :]
    start = first[:, None] + i * extent // n
    end = first[:, None] + ((i + 1) * extent + n - 1) // n
    return start, end


def _floor_log2(lengths: torch.Tensor) -> torch.Tensor:
    return torch.floor(torch.log2(lengths.double())).long()
