"""Max pooling of windows into pyramid bins: one face, an implementation per device."""

from __future__ import annotations

import torch

from spp_detect.kernels.compiler import can_compile
from spp_detect.kernels.cpu import pool_on_cpu
from spp_detect.kernels.gradient import PoolWindows
from spp_detect.kernels.reference import pool_with_torch

__all__ = ["PoolWindows", "pool_on_cpu", "pool_windows", "pool_with_torch"]


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
    from spp_detect.kernels.gpu import pool_on_gpu  # triton takes a second to import

    return pool_on_gpu(feature_map, cells, levels)
