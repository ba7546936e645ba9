"""Convnet*-5, Overfeat-5 and Overfeat-7, the other networks of the paper (table 1)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from spp_detect.backbones.base import CAFFE_BGR, Backbone
from spp_detect.backbones.zf5 import start_convolutions


def build_convnet5(name: str) -> Backbone:
    """Build Convnet*-5: maps of 55, 27 and 13 cells a side at 224 pixels, 13 at the end.

    Krizhevsky's net (NIPS 2012), its two last poolings after conv2 and conv3; no groups.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 96, 11, stride=4, padding=2),
        relu1=nn.ReLU(inplace=True),
        norm1=_make_norm(),
        conv2=nn.Conv2d(96, 256, 5, padding=2),
        relu2=nn.ReLU(inplace=True),
        norm2=_make_norm(),
        pool2=nn.MaxPool2d(3, 2),
        conv3=nn.Conv2d(256, 384, 3, padding=1),
        relu3=nn.ReLU(inplace=True),
        pool3=nn.MaxPool2d(3, 2),
    )
    return Backbone(name, _finish(layers, (384, 384, 256)), 256, CAFFE_BGR)


def build_overfeat(name: str, depth: int) -> Backbone:
    """Build Overfeat-5 or, of seven convolutions, Overfeat-7: maps of 36 and 18 cells at 224."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(3, 96, 7, stride=2),
        relu1=nn.ReLU(inplace=True),
        pool1=nn.MaxPool2d(3, 3),
        norm1=_make_norm(),
        conv2=nn.Conv2d(96, 256, 5, padding=2),
        relu2=nn.ReLU(inplace=True),
        pool2=nn.MaxPool2d(2, 2),
    )
    return Backbone(name, _finish(layers, (256, *[512] * (depth - 2))), 512, CAFFE_BGR)


def _make_norm() -> nn.LocalResponseNorm:
    """Make the normalisation over neighbouring channels, with Krizhevsky's numbers as Caffe has."""
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


def _finish(layers: OrderedDict[str, nn.Module], widths: tuple[int, ...]) -> nn.Sequential:
    """Add convolutions of 3 × 3: the first from widths[0] channels to widths[1], and so on."""
    first = sum(isinstance(layer, nn.Conv2d) for layer in layers.values()) + 1
    for i in range(len(widths) - 1):
        layers[f"conv{first + i}"] = nn.Conv2d(widths[i], widths[i + 1], 3, padding=1)
        layers[f"relu{first + i}"] = nn.ReLU(inplace=True)
    network = nn.Sequential(layers)
    start_convolutions(network)
    return network
