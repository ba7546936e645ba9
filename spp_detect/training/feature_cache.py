"""Features of a training set's windows, or the maps they are pooled from, kept on disk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from data import DEFAULT_MAX_SIDE, LabelledSet, read_photo
from spp_detect.features import Extractor, WindowFeatures, round_half
from spp_detect.files import write_array
from spp_detect.mirror import mirror_photo
from spp_detect.prefetch import work_ahead
from spp_detect.progress import track
from spp_detect.projection import unique_rows
from spp_detect.rcnn import RcnnExtractor, WarpSource
from spp_detect.spp import Maps, PhotoMaps, SppExtractor
from spp_detect.training.stage import Stage
from spp_detect.training.windows import Rows, WindowTable
from spp_detect.workers import Workers

MIRRORED = "-mirrored.npy"  # how the names of mirror images' files end


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Attributes
    ----------
    device : torch.device
        Where maps are computed and windows pooled.
    map_budget : int
        Bytes of maps kept on disk.
    max_side : int
        Largest side of a photograph in pixels.
    memory : int
        Bytes of examples that SVMs are trained on at once.
    """

    device: torch.device
    map_budget: int = 8_000_000_000
    max_side: int = DEFAULT_MAX_SIDE
    memory: int = 8_000_000_000


ExtractorType = TypeVar("ExtractorType", bound=Extractor)


class FeatureCache(ABC, Generic[ExtractorType]):
    """What is computed of photographs, in half precision, some of it on disk.

    Past the budget it is computed anew each time; it is rounded to half precision either way, so
    that the budget changes no result.

    Parameters
    ----------
    folder : Path
        Where the .npy files lie; those of an interrupted run are used again.
    dataset : LabelledSet
        The photographs.
    table : WindowTable
        Their windows.
    resources : Resources
        Bytes on disk and largest photograph.
    extractor : Extractor
        Computes it.

    Attributes
    ----------
    mirrors : bool
        Whether mirror images cost no more than the photographs do.
    used : int
        Bytes of all files.
    """

    mirrors: bool
    used: int

    def __init__(
        self,
        folder: Path,
        dataset: LabelledSet,
        table: WindowTable,
        resources: Resources,
        extractor: ExtractorType,
    ) -> None:
        self.folder = folder
        self.dataset = dataset
        self.table = table
        self.extractor = extractor
        self.budget = resources.map_budget
        self.max_side = resources.max_side
        self._ahead: tuple[int, NDArray[np.uint8] | None] = -1, None  # a photograph read ahead
        self._count()

    @abstractmethod
    def pool(
        self, index: int, rows: Rows, *, mirrored: bool = False, keep: bool = True
    ) -> WindowFeatures:
        """Pool windows of photograph `index`, or of its mirror image, by their rows in the table.

        What must be computed for it is written if there is room, unless `keep` is False.
        """

    @abstractmethod
    def pool_at(self, index: int, rows: Rows, scale: int, *, mirrored: bool) -> torch.Tensor:
        """Pool windows at one scale, a row each: float32 (N, D)."""

    @abstractmethod
    def prepare(self, index: int, *, mirrored: bool = False) -> None:
        """Compute what is kept of photograph `index` and write it, if there is room."""

    @abstractmethod
    def has(self, index: int, *, mirrored: bool = False) -> bool:
        """Whether all that `prepare` would write stands; may be asked in any thread."""

    def fill(self, workers: Workers | None = None, *, mirrored: bool = False) -> None:
        """Prepare all photographs until the budget is full, their mirror images if asked for.

        Several workers, none of which knows what the others write, may go beyond it by what they
        have in hand.
        """
        numbers = range(len(self.dataset))
        prepare = partial(self._prepare_some, (False, True)[: 1 + mirrored])
        prepared = (workers or Workers()).map(prepare, numbers)
        used = self.used
        for grown, full in track(prepared, "maps", len(numbers)):
            used += grown
            self.used = used
            if full or used > self.budget:
                self.full = True
                break

    def _prepare_some(
        self, flips: tuple[bool, ...], numbers: Sequence[int]
    ) -> Iterator[tuple[int, bool]]:
        """Prepare photographs, the next ones read in threads: bytes written, whether it is full."""
        photos = work_ahead(partial(self._read_missing, flips), numbers)
        for i, photo in zip(numbers, photos, strict=True):
            self._ahead = i, photo
            before = self.used
            for flip in flips:
                if not self.full:
                    self.prepare(i, mirrored=flip)
            self._ahead = -1, None
            yield self.used - before, self.full

    def remove_mirrored(self) -> None:
        """Remove what was kept of mirror images, to make room."""
        for path in self.folder.glob(f"*{MIRRORED}"):
            path.unlink()
        self._count()

    def _count(self) -> None:
        self.full = False
        self.used = sum(path.stat().st_size for path in self.folder.glob("[!.]*.npy"))

    def _fits(self, needed: int) -> bool:
        """Whether so many bytes more fit; if not, the cache is full from then on."""
        self.full = self.full or self.used + needed > self.budget
        return not self.full

    def _write(self, path: Path, array: NDArray[np.float16]) -> None:
        """Write an array, in place of a damaged one where there is one."""
        old = path.stat().st_size if path.exists() else 0
        write_array(path, array)
        self.used += path.stat().st_size - old

    def _read_missing(self, flips: tuple[bool, ...], index: int) -> NDArray[np.uint8] | None:
        """Read photograph `index` where there is something left to prepare of it."""
        if self.full or all(self.has(index, mirrored=flip) for flip in flips):
            return None
        return self._read(index)

    def _read_photo(self, index: int, mirrored: bool) -> NDArray[np.uint8]:
        """Read photograph `index`, if it was not read ahead, as it is or mirrored."""
        number, photo = self._ahead
        if number != index or photo is None:
            photo = self._read(index)
        return mirror_photo(photo) if mirrored else photo

    def _read(self, index: int) -> NDArray[np.uint8]:
        return read_photo(self.dataset.photographs[index].path, self.max_side)


class MapCache(FeatureCache[SppExtractor]):
    """SPP-net's maps by photograph, from which any windows are pooled.

    Parameters
    ----------
    folder, dataset, table, resources : Path, LabelledSet, WindowTable, Resources
        As of a FeatureCache.
    extractor : SppExtractor
        As of a FeatureCache.
    """

    mirrors = True

    def pool(
        self, index: int, rows: Rows, *, mirrored: bool = False, keep: bool = True
    ) -> WindowFeatures:
        """Pool windows from the maps; see FeatureCache."""
        windows = self.table.find(index, mirrored=mirrored)[rows]
        return self.get(index, mirrored=mirrored, keep=keep).pool(windows)

    def pool_at(self, index: int, rows: Rows, scale: int, *, mirrored: bool) -> torch.Tensor:
        """Pool windows from the map of one scale; see FeatureCache."""
        windows = self.table.find(index, mirrored=mirrored)[rows]
        return self.get(index, mirrored=mirrored).pool_at(windows, scale)

    def prepare(self, index: int, *, mirrored: bool = False) -> None:
        """Compute maps and write them; see FeatureCache."""
        self.get(index, mirrored=mirrored)

    def has(self, index: int, *, mirrored: bool = False) -> bool:
        """Whether all maps of a photograph stand; see FeatureCache."""
        return self._find(index, mirrored) is not None

    def get(self, index: int, *, mirrored: bool = False, keep: bool = True) -> PhotoMaps:
        """Read or compute the maps of photograph `index`, or of its mirror image.

        They are float16, on the CPU, and read from the disk where they are used. Without `keep`
        computed ones are not written.
        """
        maps = self._find(index, mirrored)
        if maps is not None:
            photograph = self.dataset.photographs[index]
            size = (photograph.width, photograph.height)
            return PhotoMaps(size, self.extractor.sides(size), maps, self.extractor)
        computed = self.compute(index, mirrored=mirrored)
        needed = sum(2 * half.numel() for halves in computed.maps.values() for half in halves)
        if keep and self._fits(needed):
            for layer, own in self._name_files(index, mirrored).items():
                for path, half in zip(own, computed.maps[layer], strict=True):
                    self._write(path, half.numpy())
        return computed

    def compute(self, index: int, *, mirrored: bool = False) -> PhotoMaps:
        """Compute the maps of photograph `index`, or of its mirror image, and keep none."""
        computed = self.extractor.compute_maps(self._read_photo(index, mirrored))
        halves = {
            layer: tuple(round_half(one).cpu() for one in own)
            for layer, own in computed.maps.items()
        }
        return replace(computed, maps=halves)

    def _find(self, index: int, mirrored: bool) -> Maps | None:
        """Find the maps of a photograph in their files; None unless all are there whole."""
        maps = {}
        for layer, paths in self._name_files(index, mirrored).items():
            read = [read_halves(path) for path in paths]
            maps[layer] = tuple(torch.from_numpy(one) for one in read if one is not None)
            if len(maps[layer]) < len(paths):
                return None
        return maps

    def _name_files(self, index: int, mirrored: bool) -> dict[str, list[Path]]:
        """Files of a photograph's maps by layer, one a scale."""
        end = MIRRORED if mirrored else ".npy"
        layers = [segment.name for segment in self.extractor.trunk.segments]
        return {
            layer: [
                self.folder / f"{index:06d}-{scale}{f'-{layer}' if layer else ''}{end}"
                for scale in self.extractor.config.scales
            ]
            for layer in layers
        }


class CropCache(FeatureCache[RcnnExtractor]):
    """R-CNN's features of all windows of a photograph.

    Past the budget only those of the windows asked for are computed. Nothing is kept of mirror
    images.

    Parameters
    ----------
    folder, dataset, table, resources : Path, LabelledSet, WindowTable, Resources
        As of a FeatureCache.
    extractor : RcnnExtractor
        As of a FeatureCache.
    """

    mirrors = False

    def pool(
        self, index: int, rows: Rows, *, mirrored: bool = False, keep: bool = True
    ) -> WindowFeatures:
        """Look features up, or compute them; see FeatureCache."""
        windows = self.table.find(index, mirrored=mirrored)[rows]
        if mirrored:
            return self._open(index, mirrored=True).pool(windows)
        kept = self._find(index, keep=keep)
        if kept is None:
            return replace(self._open(index), rounded=True).pool(windows)
        numbers = self.table.find_distinct(index)[1][rows]
        first, inverse = unique_rows(numbers[:, None].astype(np.int32))
        features = kept[torch.from_numpy(numbers[first])].to(self.extractor.device)
        photograph = self.dataset.photographs[index]
        size = (photograph.width, photograph.height)
        return WindowFeatures(features, first, inverse, windows, size)

    def pool_at(self, index: int, rows: Rows, scale: int, *, mirrored: bool) -> torch.Tensor:
        """Look features up, whatever the scale; see FeatureCache."""
        pooled = self.pool(index, rows, mirrored=mirrored)
        return pooled.features[pooled.inverse].float()

    def prepare(self, index: int, *, mirrored: bool = False) -> None:
        """Compute all windows' features and write them; see FeatureCache."""
        if not mirrored:
            self._find(index, keep=True)

    def has(self, index: int, *, mirrored: bool = False) -> bool:
        """Whether all windows' features stand; see FeatureCache."""
        return mirrored or self._look_up(index) is not None

    def _find(self, index: int, *, keep: bool) -> torch.Tensor | None:
        """Find the features of a photograph's distinct windows, float16 (U, D), if kept."""
        kept = self._look_up(index)
        if kept is not None:
            return torch.from_numpy(kept)
        first, _ = self.table.find_distinct(index)
        if not keep or not self._fits(2 * len(first) * self.extractor.length):
            return None
        source = replace(self._open(index), rounded=True)
        computed = source.compute(self.table.find(index)[first]).cpu()
        self._write(self._name_file(index), computed.numpy())
        return computed

    def _look_up(self, index: int) -> NDArray[np.float16] | None:
        halves = read_halves(self._name_file(index))
        shape = (len(self.table.find_distinct(index)[0]), self.extractor.length)
        return halves if halves is not None and halves.shape == shape else None

    def _name_file(self, index: int) -> Path:
        """A photograph's file, named for the windows: those of others are never taken for them."""
        return self.folder / f"{index:06d}-{self.table.hash_photograph(index)[:16]}.npy"

    def _open(self, index: int, *, mirrored: bool = False) -> WarpSource:
        return self.extractor.compute_maps(self._read_photo(index, mirrored))


CACHES: dict[str, Callable[..., FeatureCache]] = {"spp": MapCache, "rcnn": CropCache}


def open_cache(
    folder: Path,
    dataset: LabelledSet,
    table: WindowTable,
    resources: Resources,
    extractor: Extractor,
) -> FeatureCache:
    """Open the cache that serves an extractor."""
    return CACHES[extractor.config.extractor](folder, dataset, table, resources, extractor)


class FillCache(Stage[None]):
    """Compute every photograph's maps, or crops' features, until the budget is full.

    Parameters
    ----------
    cache : FeatureCache
        It knows which files stand.
    workers : Workers, optional
        Who computes, some photographs each.
    """

    name = "maps"

    def __init__(self, cache: FeatureCache, workers: Workers | None = None) -> None:
        self.cache = cache
        self.workers = workers

    def run(self) -> None:
        """Fill the cache."""
        self.cache.fill(self.workers)
        if self.cache.full:
            # Those of mirror images, from the fine-tuning, are read once more, these often.
            self.cache.remove_mirrored()
            self.cache.fill(self.workers)

    def load(self) -> None:
        """Leave the maps where they lie."""


def read_halves(path: Path) -> NDArray[np.float16] | None:
    """Map a file of half precision into memory; None for one that is missing or damaged."""
    try:
        halves: NDArray[np.float16] = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno is not None:  # the system's, as for too many open files
            raise
        return None
    except Exception:  # whatever np.load stumbles over: what it held is computed anew
        return None
    return halves
