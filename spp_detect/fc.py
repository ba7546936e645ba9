"""The fc layers between the pyramid and the SVMs (paper, section 4.1)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from spp_detect.config import Config

DROPOUT = 0.5


class FcLayers(nn.Module):
    """fc6, or fc6 and fc7, each with ReLU and dropout.

    Parameters
    ----------
    inputs : D values of a pooled window.
    width : values of a layer.
    depth : 1 for fc6 alone, 2 for fc6 and fc7.
    """

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i in range(depth):
            layers[f"fc{6 + i}"] = nn.Linear(width if i else inputs, width)
            layers[f"relu{6 + i}"] = nn.ReLU(inplace=True)
            layers[f"drop{6 + i}"] = nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(layers)
        self.length = width

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Turn pooled features, float (N, D), into (N, width)."""
        described: torch.Tensor = self.layers(pooled)
        return described


def build_fc(config: Config, inputs: int) -> FcLayers | None:
    """Build the layers up to the configuration's feature; None for pool5."""
    depth = {"pool5": 0, "fc6": 1, "fc7": 2}[config.feature]
    return FcLayers(inputs, config.fc_width, depth) if depth else None
