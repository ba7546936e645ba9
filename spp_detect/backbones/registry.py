"""Trunks by name: the paper's, a small one, and torchvision's nets cut at stride 16."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
import torchvision
from torch import nn

from spp_detect.backbones.base import IMAGENET_RGB, Backbone, InOrder
from spp_detect.backbones.imagenet_nets import build_convnet5, build_overfeat
from spp_detect.backbones.timm_nets import build_timm
from spp_detect.backbones.zf5 import build_zf5
from spp_detect.config import BACKBONES, TIMM, ConfigError
from spp_detect.kernels.max_pool import pool_maps


def _cut_features(name: str, stop: int, channels: int) -> Backbone:
    net = torchvision.models.get_model(name, weights=None)
    return Backbone(
        name, InOrder(OrderedDict(features=net.features[:stop])), channels, IMAGENET_RGB
    )


def _cut_resnet(name: str, channels: int) -> Backbone:
    net = torchvision.models.get_model(name, weights=None)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3")
    layers = OrderedDict((part, getattr(net, part)) for part in names)
    return Backbone(name, InOrder(layers), channels, IMAGENET_RGB)


def _cut_mobilenet(name: str, block: int, part: str, channels: int) -> Backbone:
    """Cut after the widening 1×1 convolution of the first block of stride 32, as SSDLite does."""
    net = torchvision.models.get_model(name, weights=None)
    layers = OrderedDict((str(i), net.features[i]) for i in range(block))
    widening = nn.Module()
    widening.add_module(part, nn.Sequential(getattr(net.features[block], part)[0]))
    layers[str(block)] = InOrder(OrderedDict(widening.named_children()))
    return Backbone(
        name, InOrder(OrderedDict(features=nn.Sequential(layers))), channels, IMAGENET_RGB
    )


def _build_small(name: str) -> Backbone:
    """Build a small trunk that learns from scratch in a minute: the demo's."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    widths = (3, 24, 48, 96, 128)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        (f"conv{i}", block(widths[i - 1], widths[i], 2)) for i in range(1, len(widths))
    )
    layers["conv5"] = block(128, 128, 1)
    return Backbone(name, InOrder(layers), 128, IMAGENET_RGB)


class _MaxPool(nn.MaxPool2d):
    """torch's max pooling by square windows, faster on the CPU where nothing is learnt."""

    kernel_size: int
    stride: int
    padding: int

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Pool maps (N, C, H, W)."""
        return pool_maps(maps, self.kernel_size, self.stride, self.padding, self.ceil_mode)


def _replace_pooling(layers: nn.Module) -> None:
    for name, layer in layers.named_children():
        if type(layer) is nn.MaxPool2d:
            own = _MaxPool(
                layer.kernel_size, layer.stride, layer.padding, ceil_mode=layer.ceil_mode
            )
            setattr(layers, name, own)
        _replace_pooling(layer)


_MAKERS: dict[str, Callable[[], Backbone]] = {
    "zf5": lambda: build_zf5("zf5", paper_padding=False),
    "zf5_paper": lambda: build_zf5("zf5_paper", paper_padding=True),
    "convnet5": lambda: build_convnet5("convnet5"),
    "overfeat5": lambda: build_overfeat("overfeat5", 5),
    "overfeat7": lambda: build_overfeat("overfeat7", 7),
    "alexnet": lambda: _cut_features("alexnet", 12, 256),
    "vgg16": lambda: _cut_features("vgg16", 30, 512),
    "resnet18": lambda: _cut_resnet("resnet18", 256),
    "resnet34": lambda: _cut_resnet("resnet34", 256),
    "resnet50": lambda: _cut_resnet("resnet50", 1024),
    "squeezenet1_1": lambda: _cut_features("squeezenet1_1", 13, 512),
    "mobilenet_v2": lambda: _cut_mobilenet("mobilenet_v2", 14, "conv", 576),
    "mobilenet_v3_large": lambda: _cut_mobilenet("mobilenet_v3_large", 13, "block", 672),
    "small5": lambda: _build_small("small5"),
}


def build_backbone(name: str) -> Backbone:
    """Build a trunk with fresh weights, in evaluation mode: one of BACKBONES, or "timm:NAME".

    Raises
    ------
    ConfigError
        For an unknown name, and a net of timm that is no trunk of stride 16.
    """
    if name.startswith(TIMM):
        return build_timm(name).eval()
    if name not in BACKBONES:
        raise ConfigError(
            f"backbone {name!r}: expected one of {', '.join(BACKBONES)}, or {TIMM}NAME"
        )
    backbone = _MAKERS[name]()
    _replace_pooling(backbone)
    return backbone.eval()
