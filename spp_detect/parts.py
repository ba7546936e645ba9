"""The parts of a window's feature: what of the photograph each shows, and from which layer.

A window is described by one pyramid (paper, section 4.1). Beyond the paper further parts may stand
beside it: a subclass of `WindowPart` listed in `PARTS`, named in the configuration's `parts`.
SPP-net projects a part's region onto the map, R-CNN crops and warps it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray


class WindowPart(ABC):
    """One part of a window's feature.

    Attributes
    ----------
    layer : str
        The trunk's layer from whose map the part is pooled, as "layer2"; "" for the last.
    """

    layer: str = ""

    def find_levels(self, levels: tuple[int, ...]) -> tuple[int, ...]:
        """Find the part's own pyramid, given that of the configuration, which is the default."""
        return levels

    @abstractmethod
    def place(self, windows: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Find the region that the part shows of each window.

        Parameters
        ----------
        windows : float32 (N, 4)
            In pixels of the photograph.
        size : (width, height)
            Of the photograph.

        Returns
        -------
        float32 (N, 4)
            Regions of at least a pixel, which may reach beyond the photograph.
        """


class Window(WindowPart):
    """The window itself: the paper's whole feature."""

    def place(self, windows: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the windows as they are."""
        return windows


PARTS: dict[str, WindowPart] = {"window": Window()}
