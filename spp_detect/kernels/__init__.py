"""Max pooling of windows into pyramid bins: one face, an implementation per device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spp_detect.kernels.compiler import can_compile
from spp_detect.kernels.cpu import pool_on_cpu
from spp_detect.kernels.gradient import PoolWindows
from spp_detect.kernels.reference import pool_with_torch

__all__ = ["PoolWindows", "pool_on_cpu", "pool_on_maps", "pool_windows", "pool_with_torch"]


def pool_windows(
    feature_map: torch.Tensor, cells: torch.Tensor, levels: tuple[int, ...]
) -> torch.Tensor:
    """Pool each window of cells into the bins of a spatial pyramid.

    Bin i of n over h cells covers floor(i·h/n) up to ceil((i+1)·h/n), as adaptive max pooling
    does on the cropped map (paper, section 2.2).

    Parameters
    ----------
    feature_map : float32, float16 or bfloat16 (H, W, C)
        Channels last, on any device; float64, too, where it learns. Without NaN, which is lost in
        some bins, as in roi_pool.
    cells : int32 (N, 4)
        Left, top, right, bottom, inclusive, inside the map, same device.
    levels : tuple of int
        Sides of the grids of bins, for example (6, 3, 2, 1).

    Returns
    -------
    float (N, C · sum(n² for n in levels))
        Of the map's type: level after level, each channel-major (C, n, n).
    """
    learning = feature_map.requires_grad and torch.is_grad_enabled()
    if feature_map.device.type == "cpu":
        if not learning:
            return pool_on_cpu(feature_map, cells, levels)
        pooled: torch.Tensor = PoolWindows.apply(feature_map, cells, levels)
        return pooled
    if feature_map.device.type != "cuda" or not can_compile():
        return pool_with_torch(feature_map, cells, levels)
    if learning:
        from spp_detect.kernels.gpu_gradient import PoolWindowsOnGpu

        pooled = PoolWindowsOnGpu.apply(feature_map, cells, levels)
        return pooled
    return pool_on_maps([feature_map], torch.zeros_like(cells[:, 0]), cells, levels)


def pool_on_maps(
    maps: Sequence[torch.Tensor],
    numbers: torch.Tensor,
    cells: torch.Tensor,
    levels: tuple[int, ...],
) -> torch.Tensor:
    """Pool windows, each of one of several maps, as `pool_windows` does; without a gradient.

    Parameters
    ----------
    maps : sequence of float (H, W, C)
        As of `pool_windows`: a photograph's at each scale.
    numbers : int (N,)
        Each window's map, same device.
    cells : int32 (N, 4)
        Inside that map.
    levels : tuple of int
        As of `pool_windows`.

    Returns
    -------
    float (N, C · sum(n² for n in levels))
        Of the maps' type.
    """
    if maps[0].device.type == "cuda" and can_compile():
        from spp_detect.kernels.gpu import pool_on_gpu  # triton takes a second to import

        return pool_on_gpu(maps, numbers, cells, levels)
    if len(maps) == 1:
        return pool_windows(maps[0], cells, levels)
    length = maps[0].shape[2] * sum(n * n for n in levels)
    pooled = maps[0].new_empty((len(cells), length))
    for number, one in enumerate(maps):
        (rows,) = torch.nonzero(numbers == number, as_tuple=True)
        pooled[rows] = pool_windows(one, cells[rows], levels)
    return pooled
