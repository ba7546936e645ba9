"""R-CNN's features of a data set's windows, computed once and kept on disk within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data import LabelledSet
from spp_detect.projection import unique_rows
from spp_detect.rcnn import CropFeatures, RcnnExtractor, WarpSource
from spp_detect.training.maps import PhotoStore, read_halves


class CropStore(PhotoStore[RcnnExtractor]):
    """Features of all windows of a photograph.

    Past the budget only those of the windows asked for are computed.

    Parameters
    ----------
    folder, dataset, extractor, budget, max_side : as of a PhotoStore.
    find_windows : gives the windows, float32 (N, 4), of a photograph by its index.
    """

    def __init__(
        self,
        folder: Path,
        dataset: LabelledSet,
        extractor: RcnnExtractor,
        budget: int,
        max_side: int,
        find_windows: Callable[[int], NDArray[np.float32]],
    ) -> None:
        super().__init__(folder, dataset, extractor, budget, max_side)
        self.find_windows = find_windows

    def get(
        self, index: int, *, mirrored: bool = False, keep: bool = True
    ) -> CropFeatures | WarpSource:
        """Read or compute the features of photograph `index`; nothing is kept of a mirror image.

        They are float16, on the CPU, and read from the disk where they are used. Without `keep`
        computed ones are not written.
        """
        if mirrored:
            return self.compute(index, mirrored=True)
        photograph = self.dataset.photographs[index]
        windows = self.find_windows(index)
        windows = windows[unique_rows(windows)[0]]
        path = self.folder / f"{index:06d}.npy"
        shape = (len(windows), self.extractor.length)
        halves = read_halves(path)
        if halves is not None and halves.shape == shape:
            size = (photograph.width, photograph.height)
            return CropFeatures(size, windows, torch.from_numpy(halves))
        source = self.compute(index)
        if not keep or not self._fits(2 * shape[0] * shape[1]):
            return replace(source, rounded=True)
        computed = self.extractor.keep(source, windows)
        self._write(path, computed.features.numpy())
        return computed

    def compute(self, index: int, *, mirrored: bool = False) -> WarpSource:
        """Read photograph `index`, or its mirror image, from which features are computed."""
        return self.extractor.compute_maps(self._read_photo(index, mirrored))
