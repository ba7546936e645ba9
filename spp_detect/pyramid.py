"""The spatial pyramid: levels of bins over a map or over windows of it (paper, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from spp_detect.kernels import pool_on_maps, pool_windows
from spp_detect.levels import DEFAULT_LEVELS, check_levels


class SpatialPyramidPool(nn.Module):
    """Max pooling into a pyramid of bins: a vector of one length whatever the map's size.

    Parameters
    ----------
    levels : tuple of int
        Sides of the grids of bins; 6, 3, 2, 1 make 36 + 9 + 4 + 1 = 50 bins.

    Raises
    ------
    ValueError
        For no levels, and for other ones than positive integers.

    Examples
    --------
    Maps of any size give 256 · (4 + 1) values.

    >>> pool = SpatialPyramidPool((2, 1))
    >>> pool(torch.rand(1, 256, 13, 20)).shape
    torch.Size([1, 1280])
    >>> pool(torch.rand(1, 256, 40, 31)).shape
    torch.Size([1, 1280])
    """

    def __init__(self, levels: tuple[int, ...] = DEFAULT_LEVELS) -> None:
        super().__init__()
        self.levels = check_levels(levels)

    @property
    def bins(self) -> int:
        """Number of bins of all levels together."""
        return sum(n * n for n in self.levels)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool whole maps.

        Parameters
        ----------
        maps : float (N, C, H, W)
            Any H and W of at least 1.

        Returns
        -------
        float (N, C · bins)
            Level after level, each channel-major.
        """
        pooled = [functional.adaptive_max_pool2d(maps, n).flatten(1) for n in self.levels]
        return torch.cat(pooled, dim=1)

    def pool_windows(self, feature_map: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Pool windows of one map; see `kernels.pool_windows`.

        Parameters
        ----------
        feature_map : float (H, W, C)
            Channels last.
        cells : int32 (N, 4)
            Left, top, right, bottom, inclusive.

        Returns
        -------
        float (N, C · bins)
            Of the map's type.
        """
        return pool_windows(feature_map, cells, self.levels)

    def pool_on_maps(
        self, maps: Sequence[torch.Tensor], numbers: torch.Tensor, cells: torch.Tensor
    ) -> torch.Tensor:
        """Pool windows, each of one of several maps; see `kernels.pool_on_maps`.

        Parameters
        ----------
        maps : sequence of float (H, W, C)
            Channels last.
        numbers : int (N,)
            Each window's map.
        cells : int32 (N, 4)
            Left, top, right, bottom, inclusive, inside that map.

        Returns
        -------
        float (N, C · bins)
            Of the maps' type.
        """
        return pool_on_maps(maps, numbers, cells, self.levels)

    def extra_repr(self) -> str:
        """Show the levels in the module's repr."""
        return f"levels={self.levels}"
