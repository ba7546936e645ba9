"""The maps of a data set's photographs, computed once and kept on disk within a budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data import LabelledSet, read_photo
from spp_detect.features import FeatureExtractor, PhotoMaps
from spp_detect.files import write_array

HALF_MAX = float(np.finfo(np.float16).max)


class MapStore:
    """Maps by photograph, in half precision.

    Past the budget maps are computed anew each time; they are rounded to half precision either
    way, so that the budget changes no result.

    Parameters
    ----------
    folder : where the .npy files lie; those of an interrupted run are used again.
    dataset : the photographs.
    extractor : computes maps.
    budget : bytes on disk.
    max_side : largest side of a photograph in pixels.
    """

    def __init__(
        self,
        folder: Path,
        dataset: LabelledSet,
        extractor: FeatureExtractor,
        budget: int,
        max_side: int,
    ) -> None:
        self.folder = folder
        self.dataset = dataset
        self.extractor = extractor
        self.budget = budget
        self.max_side = max_side
        self.full = False
        self.used = sum(path.stat().st_size for path in folder.glob("[!.]*.npy"))

    def get(self, index: int, *, mirrored: bool = False) -> PhotoMaps:
        """Read or compute the maps of photograph `index`, or of its mirror image.

        They are float16, on the CPU, and read from the disk where they are used.
        """
        photograph = self.dataset.photographs[index]
        size = (photograph.width, photograph.height)
        end = "-mirrored.npy" if mirrored else ".npy"
        paths = [self.folder / f"{index:06d}-{scale}{end}" for scale in self._scales]
        read = [_read_map(path) for path in paths]
        if all(one is not None for one in read):
            maps = tuple(torch.from_numpy(one) for one in read)
            return PhotoMaps(size, self.extractor.sides(size), maps)
        computed = self.compute(index, mirrored=mirrored)
        needed = sum(2 * half.numel() for half in computed.maps)
        self.full = self.used + needed > self.budget
        if not self.full:
            for path, half in zip(paths, computed.maps, strict=True):
                old = path.stat().st_size if path.exists() else 0
                write_array(path, half.numpy())
                self.used += path.stat().st_size - old
        return computed

    def compute(self, index: int, *, mirrored: bool = False) -> PhotoMaps:
        """Compute the maps of photograph `index`, or of its mirror image, and keep none."""
        photograph = self.dataset.photographs[index]
        photo = read_photo(photograph.path, self.max_side)
        if mirrored:
            photo = np.ascontiguousarray(photo[:, ::-1])
        computed = self.extractor.compute_maps(photo)
        halves = tuple(m.clamp(-HALF_MAX, HALF_MAX).half().cpu() for m in computed.maps)
        return PhotoMaps(computed.size, computed.sides, halves)

    @property
    def _scales(self) -> tuple[int, ...]:
        return self.extractor.config.scales


def _read_map(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # whatever np.load stumbles over: the map is computed anew
        return None
