"""What of the trunk is tuned, and how windows that are drawn get their features."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spp_detect.config import RunConfig
from spp_detect.fc import FcLayers
from spp_detect.files import replace_file
from spp_detect.inference_copy import InferenceCopy
from spp_detect.progress import track
from spp_detect.spp import PhotoMaps, SppExtractor
from spp_detect.training.components import Components
from spp_detect.training.feature_cache import FeatureCache, MapCache
from spp_detect.training.sampling import Draw, Sampler

# Gives the features of windows that were drawn, float32 (n, D), with a gradient where the trunk
# learns.
Pooling = Callable[[], torch.Tensor]


class TunedTrunk(ABC):
    """What of the trunk is tuned, and how its windows get their features.

    Parameters
    ----------
    tail : nn.Module
        The layers that are tuned; they change in place.
    cache : FeatureCache
        Of what lies before them.
    """

    def __init__(self, tail: nn.Module, cache: FeatureCache) -> None:
        self.tail = tail
        self.cache = cache

    def prepare(self, *, mirrored: bool) -> None:
        """Compute what `read` will read, as far as there is room; of mirror images if asked for."""
        self.cache.fill(mirrored=mirrored)

    @abstractmethod
    def read(self, draw: Draw) -> Pooling:
        """Read what a draw needs, in another thread than the one that will pool."""

    def restrict(self, fc: FcLayers) -> FcLayers:
        """The fc layers that learn: these themselves, or a copy for other inputs."""
        return fc

    def extend(self, fc: FcLayers, learnt: FcLayers) -> None:
        """Let the fc layers take over what has learnt."""
        fc.refresh()


class FrozenTrunk(TunedTrunk):
    """No layer of the trunk is tuned: features are pooled as they are read.

    Parameters
    ----------
    cache : FeatureCache
        Of the whole trunk.
    """

    def __init__(self, cache: FeatureCache) -> None:
        super().__init__(nn.Sequential(), cache)

    def read(self, draw: Draw) -> Pooling:
        """Pool a draw's windows."""
        features = self.cache.pool_at(
            draw.photograph, draw.rows, draw.scale, mirrored=draw.mirrored
        )
        return lambda: features


class ComponentTrunk(TunedTrunk):
    """No layer of the trunk is tuned, and fc6 learns in the space of principal components.

    All windows that may be drawn are pooled once, at a scale that is drawn for each; what is kept
    of a window are its components, in half precision.

    Parameters
    ----------
    cache : FeatureCache
        Of the whole trunk.
    components : Components
        The space.
    folder : Path
        Gets a file a photograph or mirror image, of half precision, a row a window.
    sampler : Sampler
        Knows which windows may be drawn.
    config : RunConfig
        Its seed and scales.
    """

    def __init__(
        self,
        cache: FeatureCache,
        components: Components,
        folder: Path,
        sampler: Sampler,
        config: RunConfig,
    ) -> None:
        super().__init__(nn.Sequential(), cache)
        self.components = components
        self._project = InferenceCopy(components.make_layer(), config.model.precision)
        self.folder = folder
        self.sampler = sampler
        self.config = config

    def prepare(self, *, mirrored: bool) -> None:
        """Compute the components of all windows that may be drawn."""
        self.cache.fill()  # first: if there is room for some maps only, then for these
        drawn = sorted(self.sampler.held_out + self.sampler.learnt)
        for i in track(drawn, "window components"):
            for flip in (False, True)[: 1 + mirrored]:
                path = self._name_file(i, flip)
                if not self._is_whole(path, i):
                    with replace_file(path) as temporary:
                        self._compute(i, flip).tofile(temporary)

    def read(self, draw: Draw) -> Pooling:
        """Look up a draw's windows, whatever its scale."""
        places = np.searchsorted(self.sampler.labelled[draw.photograph].rows, draw.rows)
        path = self._name_file(draw.photograph, draw.mirrored)
        if self._is_whole(path, draw.photograph):
            own = self._read_rows(path, places.tolist())
        else:  # damaged since
            own = self._compute(draw.photograph, draw.mirrored)[places]
        values = torch.from_numpy(own.astype(np.float32))
        return lambda: values

    def restrict(self, fc: FcLayers) -> FcLayers:
        """Copy the layers for components as inputs."""
        return fc.restrict(self.components.vectors, self.components.mean)

    def extend(self, fc: FcLayers, learnt: FcLayers) -> None:
        """Let the layers take over the copy, for pooled features as inputs."""
        fc.extend(learnt, self.components.vectors, self.components.mean)

    def _compute(self, index: int, mirrored: bool) -> NDArray[np.float16]:
        """Components of a photograph's windows that may be drawn: float16 (n, K)."""
        rows = self.sampler.labelled[index].rows
        random = np.random.default_rng((self.config.model.seed, index, 4 + mirrored))
        scales = random.integers(len(self.config.model.scales), size=len(rows))
        values = np.empty((len(rows), len(self.components.vectors)), np.float16)
        for scale in np.unique(scales).tolist():
            own = scales == scale
            features = self.cache.pool_at(index, rows[own], scale, mirrored=mirrored)
            found = self._project(features.float() - self.components.mean)
            values[own] = found.half().cpu().numpy()
        return values

    @property
    def _row_bytes(self) -> int:
        return 2 * len(self.components.vectors)

    def _is_whole(self, path: Path, index: int) -> bool:
        rows = len(self.sampler.labelled[index].rows)
        return path.is_file() and path.stat().st_size == rows * self._row_bytes

    def _read_rows(self, path: Path, places: list[int]) -> NDArray[np.float16]:
        """Read few rows of a photograph's file.

        Kept open, the files of a large set were more than a process may have; and to map one into
        memory takes several times as long.
        """
        size = self._row_bytes
        with path.open("rb", buffering=0) as file:
            content = b"".join(os.pread(file.fileno(), size, place * size) for place in places)
        return np.frombuffer(bytearray(content), np.float16).reshape(len(places), -1)

    def _name_file(self, index: int, mirrored: bool) -> Path:
        return self.folder / f"{index:06d}{'-mirrored' if mirrored else ''}.bin"


class LearningTrunk(TunedTrunk):
    """The trunk's last layers are tuned through the pyramid, from maps of those before.

    Parameters
    ----------
    maps : MapCache
        Of the layers before them.
    tail : nn.Sequential
        The layers that are tuned.
    extractor : SppExtractor
        Of the whole trunk.
    """

    def __init__(self, maps: MapCache, tail: nn.Sequential, extractor: SppExtractor) -> None:
        super().__init__(tail, maps)
        self.maps = maps
        self.extractor = extractor

    def read(self, draw: Draw) -> Pooling:
        """Read the map of a draw's photograph and scale."""
        maps = self.maps.get(draw.photograph, mirrored=draw.mirrored)
        values = maps.maps[""][draw.scale].permute(2, 0, 1)[None].float()
        return partial(self._pool, draw, maps, values)

    def _pool(self, draw: Draw, maps: PhotoMaps, values: torch.Tensor) -> torch.Tensor:
        """Compute the tuned layers' map and pool the windows from it."""
        device = self.extractor.device
        values = values.to(device).contiguous(memory_format=torch.channels_last)
        one_map = self.tail(values)[0].float().permute(1, 2, 0)
        # As the whole trunk's, but for the one scale that was drawn.
        whole = replace(maps, maps={"": (one_map,) * len(maps.sides)}, extractor=self.extractor)
        windows = self.cache.table.find(draw.photograph, mirrored=draw.mirrored)[draw.rows]
        parts = []
        for k, pyramid in enumerate(self.extractor.pyramids):
            cells = torch.from_numpy(whole.project(windows, k, draw.scale)).to(device)
            parts.append(pyramid.pool_windows(one_map, cells))
        return torch.cat(parts, dim=1)
