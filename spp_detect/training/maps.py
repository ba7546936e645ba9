"""The maps of a data set's photographs, computed once and kept on disk within a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from data import LabelledSet, read_photo
from spp_detect.features import Extractor, FeatureExtractor, PhotoMaps, round_half
from spp_detect.files import write_array

MIRRORED = "-mirrored.npy"  # how the names of mirror images' files end

ExtractorType = TypeVar("ExtractorType", bound=Extractor)


class PhotoStore(Generic[ExtractorType]):
    """What is computed of photographs, in half precision, some of it on disk.

    Past the budget it is computed anew each time; it is rounded to half precision either way, so
    that the budget changes no result.

    Parameters
    ----------
    folder : where the .npy files lie; those of an interrupted run are used again.
    dataset : the photographs.
    extractor : computes it.
    budget : bytes on disk.
    max_side : largest side of a photograph in pixels.
    """

    def __init__(
        self,
        folder: Path,
        dataset: LabelledSet,
        extractor: ExtractorType,
        budget: int,
        max_side: int,
    ) -> None:
        self.folder = folder
        self.dataset = dataset
        self.extractor = extractor
        self.budget = budget
        self.max_side = max_side
        self._count()

    def remove_mirrored(self) -> None:
        """Remove what was kept of mirror images, to make room."""
        for path in self.folder.glob(f"*{MIRRORED}"):
            path.unlink()
        self._count()

    def _count(self) -> None:
        self.full = False
        self.used = sum(path.stat().st_size for path in self.folder.glob("[!.]*.npy"))

    def _fits(self, needed: int) -> bool:
        """Whether so many bytes more fit; if not, the store is full from then on."""
        self.full = self.full or self.used + needed > self.budget
        return not self.full

    def _write(self, path: Path, array: NDArray[np.float16]) -> None:
        """Write an array, in place of a damaged one where there is one."""
        old = path.stat().st_size if path.exists() else 0
        write_array(path, array)
        self.used += path.stat().st_size - old

    def _read_photo(self, index: int, mirrored: bool) -> NDArray[np.uint8]:
        """Read photograph `index` as it is or mirrored."""
        photo = read_photo(self.dataset.photographs[index].path, self.max_side)
        return np.ascontiguousarray(photo[:, ::-1]) if mirrored else photo


class MapStore(PhotoStore[FeatureExtractor]):
    """Maps by photograph."""

    def get(self, index: int, *, mirrored: bool = False, keep: bool = True) -> PhotoMaps:
        """Read or compute the maps of photograph `index`, or of its mirror image.

        They are float16, on the CPU, and read from the disk where they are used. Without `keep`
        computed ones are not written.
        """
        photograph = self.dataset.photographs[index]
        size = (photograph.width, photograph.height)
        end = MIRRORED if mirrored else ".npy"
        paths = [self.folder / f"{index:06d}-{scale}{end}" for scale in self._scales]
        read = [read_halves(path) for path in paths]
        if all(one is not None for one in read):
            maps = tuple(torch.from_numpy(one) for one in read)
            return PhotoMaps(size, self.extractor.sides(size), maps)
        computed = self.compute(index, mirrored=mirrored)
        needed = sum(2 * half.numel() for half in computed.maps)
        if keep and self._fits(needed):
            for path, half in zip(paths, computed.maps, strict=True):
                self._write(path, half.numpy())
        return computed

    def compute(self, index: int, *, mirrored: bool = False) -> PhotoMaps:
        """Compute the maps of photograph `index`, or of its mirror image, and keep none."""
        computed = self.extractor.compute_maps(self._read_photo(index, mirrored))
        halves = tuple(round_half(one).cpu() for one in computed.maps)
        return PhotoMaps(computed.size, computed.sides, halves)

    @property
    def _scales(self) -> tuple[int, ...]:
        return self.extractor.config.scales


def read_halves(path: Path) -> NDArray[np.float16] | None:
    """Map a file of half precision into memory; None for one that is missing or damaged."""
    try:
        halves: NDArray[np.float16] = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # whatever np.load stumbles over: what it held is computed anew
        return None
    return halves
