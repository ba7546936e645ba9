"""What every trunk states: stride, centre of cell 0, channels, input format."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spp_detect.config import ConfigError
from spp_detect.projection import CellGrid


@dataclass(frozen=True)
class InputFormat:
    """How a trunk wants its pixels: (value − mean) / std per channel, values 0 to 255.

    Attributes
    ----------
    order : str
        "rgb" or "bgr".
    mean, std : tuple of float
        Three values, in the order of the channels.
    """

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET_RGB = InputFormat("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
CAFFE_BGR = InputFormat("bgr", (128.0, 128.0, 128.0), (1.0, 1.0, 1.0))


class Backbone(nn.Module):
    """A trunk: a photograph's pixels go in, the map that windows are pooled from comes out.

    Parameters
    ----------
    name : str
        The name under which `build_backbone` makes it.
    layers : nn.Module
        The trunk's layers, in order, under the names of its state dict.
    channels : int
        Channels of the map.
    input_format : InputFormat
        How pixels are normalised.
    grid : CellGrid, optional
        Where the map's cells lie; computed from the layers if not given.
    """

    def __init__(
        self,
        name: str,
        layers: nn.Module,
        channels: int,
        input_format: InputFormat,
        grid: CellGrid | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.layers = layers
        self.channels = channels
        self.input_format = input_format
        self.grid = grid or measure_grid(layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute maps: (N, 3, H, W) normalised pixels to (N, channels, h, w)."""
        maps: torch.Tensor = self.layers(pixels)
        return maps

    def normalise(self, photo: NDArray[np.uint8]) -> torch.Tensor:
        """Turn a uint8 RGB photograph (H, W, 3) into float32 (1, 3, H, W), normalised."""
        if self.input_format.order == "bgr":
            photo = cv2.cvtColor(photo, cv2.COLOR_RGB2BGR)
        # A look-up of the 256 values of each channel takes a sixth of the arithmetic's time.
        values = np.arange(256, dtype=np.float32)[:, None]
        mean, std = np.array([self.input_format.mean, self.input_format.std], np.float32)
        pixels = cv2.LUT(photo, ((values - mean) / std)[None])
        return torch.from_numpy(pixels).permute(2, 0, 1)[None]

    def normalise_tensor(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise RGB values of 0 to 255, float32 (N, 3, H, W), where they lie."""
        if self.input_format.order == "bgr":
            pixels = pixels.flip(1)
        numbers = zip(pixels.unbind(1), self.input_format.mean, self.input_format.std, strict=True)
        return torch.stack([(one - mean) / std for one, mean, std in numbers], dim=1)


class InOrder(nn.Module):
    """Layers of which each takes what the one before it gives, under names of their own.

    Parameters
    ----------
    layers : OrderedDict of str to nn.Module
        By the names of their state dicts.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module]) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute what the last layer gives."""
        for layer in self.children():
            x = layer(x)
        return x


@dataclass(frozen=True)
class Segment:
    """Some of a trunk's layers, one after the other.

    Attributes
    ----------
    name : str
        Of the last layer; "" where it is the trunk's last.
    layers : nn.Module
        They share the trunk's weights.
    channels : int
        Of the map after them.
    grid : CellGrid
        Where that map's cells lie.
    """

    name: str
    layers: nn.Module
    channels: int
    grid: CellGrid


def cut_backbone(backbone: Backbone, names: Iterable[str]) -> list[Segment]:
    """Cut a trunk after some of its layers, in their order whatever that of `names`.

    Parameters
    ----------
    backbone : Backbone
        The trunk.
    names : iterable of str
        Names of layers, as "layer2" or "features.9"; "" for the last.

    Raises
    ------
    ConfigError
        For a name that is no layer's.
    """
    wanted = set(names)
    if wanted == {""}:
        return [Segment("", backbone.layers, backbone.channels, backbone.grid)]
    layers = OrderedDict(list_layers(backbone.layers))
    known = list(layers)[:-1]
    for name in sorted(wanted - {"", *known}):
        raise ConfigError(
            f"layer {name!r}: expected a layer of {backbone.name} before its last: "
            f"{', '.join(known)}"
        )
    segments, start = [], 0
    for end, name in enumerate([*known, ""], 1):
        if name in wanted:
            parts = list(layers.values())
            before = nn.Sequential(*parts[:end])
            channels = _count_channels(before)
            own = nn.Sequential(*parts[start:end])
            segments.append(Segment(name, own, channels, measure_grid(before)))
            start = end
    return segments


def split_backbone(backbone: Backbone, layer: str) -> tuple[Backbone, nn.Sequential]:
    """Split a trunk before one of its layers; both parts share the trunk's weights.

    Parameters
    ----------
    backbone : Backbone
        The trunk.
    layer : str
        Name of the second part's first layer, as "layer3" or "features.10"; "" for none.

    Returns
    -------
    tuple of Backbone and nn.Sequential
        Stem and tail: the tail is empty where `layer` is "".

    Raises
    ------
    ConfigError
        For a name that is no layer's, or the first layer's, before which there is no map.
    """
    if not layer:
        return backbone, nn.Sequential()
    layers = OrderedDict(list_layers(backbone.layers))
    names = list(layers)
    if layer not in names[1:]:
        raise ConfigError(
            f"train_from {layer!r}: expected a layer of {backbone.name}: {', '.join(names[1:])}"
        )
    cut = names.index(layer)
    parts = list(layers.values())
    stem, tail = nn.Sequential(*parts[:cut]), nn.Sequential(*parts[cut:])
    channels = _count_channels(stem)
    return Backbone(backbone.name, stem, channels, backbone.input_format).eval(), tail


@torch.no_grad()
def _count_channels(layers: nn.Module) -> int:
    device = next(layers.parameters()).device
    return int(layers(torch.zeros(1, 3, 64, 64, device=device)).shape[1])


def list_layers(layers: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List a trunk's layers in their order, by the names that `cut_backbone` takes."""
    for name, child in layers.named_children():
        if name == "features":
            yield from ((f"features.{i}", part) for i, part in child.named_children())
        else:
            yield name, child


def measure_grid(layers: nn.Module) -> CellGrid:
    """Compute stride and centre of cell 0 from a trunk's convolutions and poolings.

    A layer of kernel k, stride s and padding p moves the centre by ((k − 1)/2 − p) cells of its
    input and multiplies the stride by s. Layers beside the main path (a shortcut's projection, the
    parallel 1×1 of a fire module) move nothing or repeat what the main path does, and the
    shortcuts' are left out.
    """
    stride, centre = 1, 0.0
    for name, layer in layers.named_modules():
        if "downsample" in name or not isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            continue
        kernel, step, padding, dilation = (
            value[0] if isinstance(value, tuple) else value
            for value in (
                layer.kernel_size,
                layer.stride,
                layer.padding,
                getattr(layer, "dilation", 1),
            )
        )
        centre += ((int(kernel) - 1) * int(dilation) / 2 - int(padding)) * stride
        stride *= int(step)
    return CellGrid(stride, centre)
