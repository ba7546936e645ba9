"""Features of whole photographs from a trunk's maps, of length 1 (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spp_detect.backbones import Backbone
from spp_detect.backbones.base import list_layers
from spp_detect.classification.description import normalise
from spp_detect.classification.image_view import check_view, view_photo
from spp_detect.classification.network import Classifier, ClassifierError
from spp_detect.config import ConfigError
from spp_detect.features import Trunk, send
from spp_detect.pyramid import SpatialPyramidPool

# Turns the trunk's last map, (1, C, h, w), into a feature, (1, D).
MapFeature = Callable[[torch.Tensor], torch.Tensor]

# Of maps that are not pooled, which are of one length only where all views are of one size.
UNPOOLED = ("conv4", "conv5")
FEATURES = (*UNPOOLED, "pool5", "spp", "fc6", "fc7")
FINEST = 6
NO_FC: Mapping[str, MapFeature] = MappingProxyType({})


class ImageFeature:
    """Computes a feature of photographs; called with one, uint8 (H, W, 3), it gives float32 (D,).

    Parameters
    ----------
    backbone : Backbone
        The trunk.
    name : str
        "conv5", the last map as it is; "conv4", the map before the layer with the last convolution,
        which of ZF-5 and AlexNet is conv4's; "pool5", 6×6 bins of the last map; "spp", its pyramid
        6×6, 3×3, 2×2, 1×1; or one of ``fc``.
    view, size : str, int
        As `view_photo` takes them.
    device : torch.device
        Where the map is computed.
    fc : mapping of str to callable
        What a network computes beyond its trunk, by name, "fc6" and "fc7": of the last map,
        (1, C, h, w), a feature, (1, D), on the same device.

    Raises
    ------
    ConfigError
        For another name; for one that the network does not have; for a map as it is of full
        photographs, whose maps have many sizes.

    Notes
    -----
    The paper's pool5 has 6×6 values a channel in networks with a pyramid and without (table 6).
    Without, these are the maxima of 3×3 cells, two cells apart, of a map of 13×13; the pyramid's
    6×6 bins of such a map are the very same cells.
    """

    def __init__(
        self,
        backbone: Backbone,
        name: str,
        view: str,
        size: int,
        device: torch.device,
        fc: Mapping[str, MapFeature] = NO_FC,
    ) -> None:
        check_view(view, size)
        if name in UNPOOLED and view == "full":
            raise ConfigError(
                f"features {name}: maps of full photographs have many sizes; "
                "expected view crop or warp, or pooled features"
            )
        self.view = view
        self.size = size
        self.device = device
        self.backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
        self.layer = _find_before_last(backbone) if name == "conv4" else ""
        self._compute = _find_feature(name, fc, backbone.name)
        self._trunk = Trunk(self.backbone, (self.layer,), "float32")

    @torch.inference_mode()
    def __call__(self, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Compute the feature, of length 1."""
        pixels = self.backbone.normalise(view_photo(photo, self.view, self.size))
        sent = send(pixels.contiguous(memory_format=torch.channels_last), self.device)
        feature = self._compute(self._trunk(sent)[self.layer])
        return normalise(feature[0].float().cpu().numpy())


def list_fc_features(network: Classifier, view: str, size: int) -> dict[str, MapFeature]:
    """List what a classifier's fc layers make of its last map, by name.

    Raises
    ------
    ClassifierError
        Of a network without a pyramid, for other views than those that it was trained on.
    """
    config = network.config
    if not config.has_pyramid and (view == "full" or size != config.size):
        raise ClassifierError(
            f"view {view} of size {size}: expected crop or warp of size {config.size}, the network "
            "has no pyramid"
        )

    def make(depth: int) -> MapFeature:
        layers = network.fc.cut(depth).eval()
        return lambda maps: layers(network.pyramid(maps))

    return {f"fc{5 + depth}": make(depth) for depth in range(1, config.fc_depth + 1)}


def _find_feature(name: str, fc: Mapping[str, MapFeature], trunk: str) -> MapFeature:
    of_maps: dict[str, MapFeature] = {
        "conv4": nn.Flatten(),
        "conv5": nn.Flatten(),
        "pool5": SpatialPyramidPool((FINEST,)),
        "spp": SpatialPyramidPool(),
    }
    known = {**of_maps, **fc}
    if name not in known:
        what = "a trunk without fc layers" if name in FEATURES else "a trunk"
        raise ConfigError(f"features {name}: {trunk} is {what}; expected {', '.join(known)}")
    return known[name]


def _find_before_last(backbone: Backbone) -> str:
    """Find the layer before the last one that holds a convolution."""
    layers = list(list_layers(backbone.layers))
    last = max(i for i, (_, layer) in enumerate(layers) if _convolves(layer))
    if not last:
        raise ConfigError(f"features conv4: {backbone.name} has no layer before its last")
    return layers[last - 1][0]


def _convolves(layer: nn.Module) -> bool:
    return any(isinstance(part, nn.Conv2d) for part in layer.modules())
