"""From a photograph to maps, one per scale, and from maps to pooled windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.backbones import Backbone
from spp_detect.config import Config, ConfigError
from spp_detect.inference_copy import FrozenNetwork
from spp_detect.projection import choose_scales, project_windows, unique_rows
from spp_detect.pyramid import SpatialPyramidPool

HALF_MAX = float(np.finfo(np.float16).max)
ROWS = 256  # multiplied at once: as floats they stay in a cache
MIN_SIDE = 48  # pixels: the narrowest input of which every trunk makes a map


@dataclass(frozen=True)
class PhotoMaps:
    """The maps of one photograph.

    Attributes
    ----------
    size : (width, height) of the original photograph in pixels.
    sides : short side in pixels of the resized photograph behind each map, before rounding.
    maps : float32, or half precision, (H, W, C) each, channels last.
    """

    size: tuple[int, int]
    sides: tuple[float, ...]
    maps: tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class WindowFeatures:
    """Pooled features of windows, those that fall on the same cells computed once.

    Attributes
    ----------
    features : float (U, D), one row per distinct window, of the precision of the maps.
    first : int64 (U,), the window of each row, increasing.
    inverse : int64 (N,), the row of each window.
    """

    features: torch.Tensor
    first: NDArray[np.int64]
    inverse: NDArray[np.int64]


class Extractor(ABC):
    """What a detector asks of its features: SPP-net's here, R-CNN's in `rcnn`.

    Parameters
    ----------
    backbone : the trunk, on the CPU or wherever; it is moved to `device`.
    config : levels, scales, rules and precision.
    device : where maps are computed and pooled.

    Attributes
    ----------
    trunk : computes maps as the backbone does, which may go on to learn.
    pyramid : pools them.
    """

    def __init__(self, backbone: Backbone, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
        self.trunk = FrozenNetwork(self.backbone, config.precision)
        self.pyramid = SpatialPyramidPool(config.levels)

    @property
    def length(self) -> int:
        """Values of one window's feature."""
        return self.backbone.channels * self.pyramid.bins

    @abstractmethod
    def compute_maps(self, photo: NDArray[np.uint8]) -> Any:
        """Do what is done once per photograph; the result knows the photograph's size."""

    @abstractmethod
    def pool(self, maps: Any, windows: NDArray[np.float32]) -> WindowFeatures:
        """Do what is done per window."""


class FeatureExtractor(Extractor):
    """The convolutions once per photograph and scale, the pyramid once per window."""

    @torch.inference_mode()
    def compute_maps(self, photo: NDArray[np.uint8]) -> PhotoMaps:
        """Resize a uint8 RGB photograph (H, W, 3) to every scale and compute its maps."""
        height, width = photo.shape[:2]
        maps = []
        for scale in self.config.scales:
            size = resized_size((width, height), scale, self.config.long_side_limit)
            # Bilinear without antialiasing, as the release resizes.
            resized = _pad_small(cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR))
            pixels = self.backbone.normalise(resized).to(self.device)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            maps.append(self.trunk(pixels)[0].permute(1, 2, 0).contiguous())
        return PhotoMaps((width, height), self.sides((width, height)), tuple(maps))

    def sides(self, size: tuple[int, int]) -> tuple[float, ...]:
        """Short sides to which a photograph of (width, height) is resized, before rounding."""
        most = self.config.long_side_limit * min(size) / max(size)
        return tuple(min(float(scale), most) for scale in self.config.scales)

    @torch.inference_mode()
    def pool(self, maps: PhotoMaps, windows: NDArray[np.float32]) -> WindowFeatures:
        """Pool windows, float32 (N, 4) in the original photograph, each at its best scale."""
        located = self._locate(maps, windows)
        first, inverse = unique_rows(located)
        located = located[first]
        shape, dtype = (len(first), self.length), maps.maps[0].dtype
        features = torch.empty(shape, dtype=dtype, device=self.device)
        for scale, one_map in enumerate(maps.maps):
            rows = np.flatnonzero(located[:, 0] == scale)
            if len(rows):
                cells = torch.from_numpy(located[rows, 1:].copy()).to(self.device)
                pooled = self.pyramid.pool_windows(one_map.to(self.device), cells)
                if len(rows) == len(first):
                    features = pooled
                else:
                    features[torch.from_numpy(rows).to(self.device)] = pooled
        return WindowFeatures(features, first, inverse)

    def _locate(self, maps: PhotoMaps, windows: NDArray[np.float32]) -> NDArray[np.int32]:
        """Scale and cells of each window: int32 (N, 5)."""
        short_side = min(maps.size)
        rule = self.config.scale_rule
        scale = choose_scales(windows, np.array(maps.sides, float), short_side, rule)
        located = np.zeros((len(windows), 5), np.int32)
        for s, one_map in enumerate(maps.maps):
            chosen = scale == s
            located[chosen, 0] = s
            located[chosen, 1:] = self.project(windows[chosen], maps, s, one_map.shape[:2])
        return located

    def project(
        self, windows: NDArray[np.float32], maps: PhotoMaps, scale: int, map_size: tuple[int, ...]
    ) -> NDArray[np.int32]:
        """Project windows onto the map (height, width) of one scale: cells, int32 (N, 4)."""
        side, short_side = maps.sides[scale], min(maps.size)
        factor = side / short_side
        if side in self.config.scales and short_side > 1:
            # Between pixel centres, as the release rescales.
            factor = (side - 1) / (short_side - 1)
        size = (map_size[0], map_size[1])
        return project_windows(windows, factor, size, self.backbone.grid, self.config.projection)


def resized_size(size: tuple[int, int], short_side: int, long_limit: int) -> tuple[int, int]:
    """(width, height) with the short side wanted, or less to keep the long side in bounds."""
    factor = min(short_side / min(size), long_limit / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def round_half(values: torch.Tensor) -> torch.Tensor:
    """Round to half precision, to its largest number what lies past it."""
    return values.float().clamp(-HALF_MAX, HALF_MAX).half()


def multiply_rows(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply (U, D) of any precision by float32 (D, C): float32 (U, C)."""
    return torch.cat([part.float() @ weights for part in rows.split(ROWS)])


def _pad_small(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the last pixels of a strip narrower than a trunk's kernels, so that it has a cell."""
    height, width = photo.shape[:2]
    below, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    if not (below or right):
        return photo
    padded = cv2.copyMakeBorder(photo, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8)


def choose_device(name: str) -> torch.device:
    """Turn auto, cpu or cuda into a device; ConfigError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise ConfigError(f"device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no GPU on this machine; give cpu or auto")
    return torch.device(name)
