"""ZF-5, the five convolutions of Zeiler and Fergus that the paper detects with (table 1)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from spp_detect.backbones.base import CAFFE_BGR, Backbone
from spp_detect.kernels.norm import normalise_within_channel


class WithinChannelNorm(nn.Module):
    """Caffe's local response normalisation within a channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise maps (N, C, H, W)."""
        return normalise_within_channel(x)


def build_zf5(name: str, *, paper_padding: bool) -> Backbone:
    """Build ZF-5 with the release's paddings (1, 0, 0, 0) or the paper's (3, 1, 2, 1).

    The paddings are those of conv1, pool1, conv2 and pool2; conv3 to conv5 are padded by 1. The
    weights start from N(0, 0.01), the biases from 0, 1, 0, 1, 1.
    """
    pad = (3, 1, 2, 1) if paper_padding else (1, 0, 0, 0)
    layers = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, 96, 7, stride=2, padding=pad[0]),
            relu1=nn.ReLU(inplace=True),
            norm1=WithinChannelNorm(),
            pool1=nn.MaxPool2d(3, 2, padding=pad[1], ceil_mode=True),
            conv2=nn.Conv2d(96, 256, 5, stride=2, padding=pad[2]),
            relu2=nn.ReLU(inplace=True),
            norm2=WithinChannelNorm(),
            pool2=nn.MaxPool2d(3, 2, padding=pad[3], ceil_mode=True),
            conv3=nn.Conv2d(256, 384, 3, padding=1),
            relu3=nn.ReLU(inplace=True),
            conv4=nn.Conv2d(384, 384, 3, padding=1),
            relu4=nn.ReLU(inplace=True),
            conv5=nn.Conv2d(384, 256, 3, padding=1),
            relu5=nn.ReLU(inplace=True),
        )
    )
    start_convolutions(layers)
    return Backbone(name, layers, 256, CAFFE_BGR)


def start_convolutions(layers: nn.Module, stddev: float = 0.01) -> None:
    """Start weights from N(0, stddev), biases from 0, 1, 0, 1 and 1 from the fourth layer on."""
    found = [layer for layer in layers.modules() if isinstance(layer, nn.Conv2d)]
    for i, layer in enumerate(found):
        nn.init.normal_(layer.weight, std=stddev)
        if layer.bias is not None:
            nn.init.constant_(layer.bias, 0.0 if i in (0, 2) else 1.0)
