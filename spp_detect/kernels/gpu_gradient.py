"""The gradient of the window pooling on a GPU, by Triton; the same from run to run.

Gradients of many bins meet in a cell, in an order that no one knows. They are added as whole
numbers of 64 bits, whose sum does not depend on it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from spp_detect.kernels.gpu import describe_levels, find_edges, lay_out, pool_on_gpu

LARGEST_SUM = 2.0**62


class PoolWindowsOnGpu(torch.autograd.Function):
    """`kernels.pool_windows` on a GPU, differentiable in the map.

    A bin's gradient goes to the first of its cells, row by row, that holds its maximum, as that of
    adaptive max pooling does. Where any gradient is not finite, all that come out are NaN.
    """

    @staticmethod
    def forward(
        ctx: Any, feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
    ) -> torch.Tensor:
        """Pool float (H, W, C) at cells, int32 (N, 4), into (N, C · bins)."""
        feature_map, cells = feature_map.detach().contiguous(), cells.contiguous()
        pooled = pool_on_gpu([feature_map], torch.zeros_like(cells[:, 0]), cells, levels)
        ctx.save_for_backward(feature_map, cells, pooled)
        ctx.levels = levels
        return pooled

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Add each bin's gradient to the cell that it came from."""
        feature_map, cells, pooled = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        if not len(cells):
            return torch.zeros_like(feature_map), None, None
        scale = _find_scale(gradient, gradient.numel() // feature_map.shape[2])
        sums = torch.zeros(feature_map.shape, dtype=torch.int64, device=feature_map.device)
        grid, sizes, constants = lay_out(feature_map, cells, ctx.levels)
        described = describe_levels(ctx.levels, feature_map.shape[2], cells.device)
        inputs = feature_map, cells, described, pooled, gradient, scale
        _add_to_cells[grid](*inputs, sums, *sizes[1:], **constants)
        return (sums.double() / scale).to(feature_map.dtype), None, None


def _find_scale(gradient: torch.Tensor, most: int) -> torch.Tensor:
    """The power of two that makes whole numbers of gradients, `most` of which fit in 63 bits.

    float64 (): NaN where a gradient is not finite, by which all cells are then divided.
    """
    largest = gradient.abs().amax().double()
    scale = torch.exp2(torch.floor(torch.log2(LARGEST_SUM / most / largest)))
    scale = torch.where(largest > 0, scale, 1.0)
    return torch.where(torch.isfinite(largest), scale, torch.nan)


@triton.jit(do_not_specialize=["width"])
def _add_to_cells(  # type: ignore[no-untyped-def]
    feature_map,
    cells,
    levels,
    pooled,
    gradient,
    scale,
    sums,
    width,
    channels,
    length,
    BINS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TYPE: tl.constexpr,
):
    """Find the cell of each maximum of one window and level, for some channels, and add to it."""
    window = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    n, first = tl.load(levels + 2 * tl.program_id(2)), tl.load(levels + 2 * tl.program_id(2) + 1)
    bins = tl.arange(0, BINS)
    x0, x1, columns = find_edges(cells + 4 * window, bins % n, n)
    y0, y1, rows = find_edges(cells + 4 * window + 1, tl.minimum(bins // n, n - 1), n)
    inside = (c[None, :] < channels) & (bins[:, None] < n * n)
    place = window * length + first + c[None, :] * (n * n) + bins[:, None]
    best = tl.load(pooled + place, inside, other=0).to(TYPE)
    found = tl.full((BINS, CHANNELS), 0, tl.int32)
    # From the last cell to the first, which so has the last word; the longest bin has two cells
    # more than the shortest, which then comes to its first cells several times.
    for up in range(0, rows // n + 2):
        y = tl.maximum(y1 - 1 - up, y0)
        for back in range(0, columns // n + 2):
            cell = y * width + tl.maximum(x1 - 1 - back, x0)
            value = tl.load(feature_map + cell[:, None] * channels + c[None, :], inside, other=0)
            found = tl.where(value.to(TYPE) == best, cell[:, None], found)
    amount = tl.load(gradient + place, inside, other=0).to(tl.float64) * tl.load(scale)
    whole = tl.where(amount < 0, amount - 0.5, amount + 0.5).to(tl.int64)
    tl.atomic_add(sums + found * channels + c[None, :], whole, inside & (whole != 0))
