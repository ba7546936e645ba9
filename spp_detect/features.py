"""What a detector asks of its features, SPP-net's (`spp`) and R-CNN's (`rcnn`) alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.backbones import Backbone, cut_backbone
from spp_detect.config import Config, ConfigError
from spp_detect.inference_copy import InferenceCopy
from spp_detect.parts import PARTS, WindowPart
from spp_detect.pyramid import SpatialPyramidPool
from spp_detect.watch import Watch, unwatched

HALF_MAX = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class WindowFeatures:
    """Pooled features of a photograph's windows, those that fall on the same cells once.

    Attributes
    ----------
    features : float (U, D)
        One row per distinct window, of the precision of the maps.
    first : int64 (U,)
        The window of each row, increasing.
    inverse : int64 (N,)
        The row of each window.
    windows : float32 (N, 4)
        In pixels of the photograph.
    size : (width, height)
        Of the photograph.
    mirrored : WindowFeatures, optional
        Of the same N windows in the photograph's mirror image, where that is looked at, too.
    """

    features: torch.Tensor
    first: NDArray[np.int64]
    inverse: NDArray[np.int64]
    windows: NDArray[np.float32]
    size: tuple[int, int]
    mirrored: WindowFeatures | None = None

    def keep(self, rows: torch.Tensor) -> WindowFeatures:
        """Keep some of the distinct windows, by their increasing rows, and what falls on them."""
        return self._keep_windows(np.isin(self.inverse, rows.cpu().numpy()))

    def _keep_windows(self, kept: NDArray[np.bool_]) -> WindowFeatures:
        rows, first, inverse = np.unique(self.inverse[kept], return_index=True, return_inverse=True)
        order = np.argsort(first)
        first, inverse = first[order], np.argsort(order)[inverse]
        features = self.features[torch.from_numpy(rows[order]).to(self.features.device)]
        mirrored = self.mirrored._keep_windows(kept) if self.mirrored is not None else None
        return WindowFeatures(features, first, inverse, self.windows[kept], self.size, mirrored)


class PhotoFeatures(ABC):
    """A photograph of which is done what is done once; its windows may now be pooled.

    Attributes
    ----------
    size : (width, height)
        Of the photograph in pixels.
    """

    size: tuple[int, int]

    @abstractmethod
    def pool(self, windows: NDArray[np.float32], watch: Watch = unwatched) -> WindowFeatures:
        """Do what is done per window, for float32 (N, 4) in the photograph."""


class Trunk:
    """A trunk for inference: the maps after those of its layers from which parts are pooled.

    Parameters
    ----------
    backbone : Backbone
        Its weights may go on to change; `refresh` takes the change over.
    layers : tuple of str
        Names of layers, "" for the last.
    precision : str
        As the configuration's.
    """

    def __init__(self, backbone: Backbone, layers: tuple[str, ...], precision: str) -> None:
        self.segments = cut_backbone(backbone, layers)
        self._copies = [InferenceCopy(segment.layers, precision) for segment in self.segments]

    def refresh(self) -> None:
        """Follow the backbone, whose weights have changed."""
        for copy in self._copies:
            copy.refresh()

    def __call__(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Turn normalised pixels (N, 3, H, W) into a map (N, C, h, w) by the layer's name."""
        maps: dict[str, torch.Tensor] = {}
        for segment, copy in zip(self.segments, self._copies, strict=True):
            # A segment may begin with a layer that works in place.
            pixels = maps[segment.name] = copy(pixels.clone() if maps else pixels)
        return maps


class Extractor(ABC):
    """Computes the features of windows.

    Parameters
    ----------
    backbone : Backbone
        The trunk, on the CPU or wherever; it is moved to `device`.
    config : Config
        Parts, levels, scales, rules and precision.
    device : torch.device
        Where maps are computed and pooled.

    Attributes
    ----------
    trunk : Trunk
        Computes maps as the backbone does.
    parts : tuple of WindowPart
        Of a window's feature.
    pyramids : tuple of SpatialPyramidPool
        Each part's.
    """

    def __init__(self, backbone: Backbone, config: Config, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
        self.parts: tuple[WindowPart, ...] = tuple(PARTS[name] for name in config.parts)
        self.pyramids = tuple(SpatialPyramidPool(p.find_levels(config.levels)) for p in self.parts)
        self.trunk = Trunk(self.backbone, tuple(p.layer for p in self.parts), config.precision)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Values of each part of a window's feature."""
        channels = {segment.name: segment.channels for segment in self.trunk.segments}
        pairs = zip(self.parts, self.pyramids, strict=True)
        return tuple(channels[part.layer] * pyramid.bins for part, pyramid in pairs)

    @property
    def length(self) -> int:
        """Values of one window's feature."""
        return sum(self.lengths)

    @abstractmethod
    def compute_maps(self, photo: NDArray[np.uint8], watch: Watch = unwatched) -> PhotoFeatures:
        """Do what is done once for a uint8 RGB photograph (H, W, 3)."""


def round_half(values: torch.Tensor) -> torch.Tensor:
    """Round to half precision, to its largest number what lies past it."""
    return values.float().clamp(-HALF_MAX, HALF_MAX).half()


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy from the CPU to a device; to a GPU without waiting until the copy is done."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def choose_device(name: str) -> torch.device:
    """Turn auto, cpu or cuda into a device; ConfigError where there is no such device.

    Where it is a GPU, this process computes float32 as such from then on, not as TensorFloat-32,
    and convolutions the same from run to run.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"device {name!r}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no GPU on this machine; give cpu or auto")
    device = torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        compute_exactly()
    return device


def compute_exactly() -> None:
    """Take back what cuDNN does by default: TensorFloat-32, which has 10 of float32's 23 bits."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    # Else a fine-tuning that is stopped and resumed would not come out the same, to the bit.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
