"""Convolutional trunks that end at a map of stride 16, Overfeat at 12."""

from spp_detect.backbones.base import (
    Backbone,
    InputFormat,
    Segment,
    cut_backbone,
    split_backbone,
)
from spp_detect.backbones.registry import build_backbone
from spp_detect.backbones.weights import WeightsError, load_weights, read_fc_weights
from spp_detect.config import BACKBONES

__all__ = [
    "BACKBONES",
    "Backbone",
    "InputFormat",
    "Segment",
    "WeightsError",
    "build_backbone",
    "cut_backbone",
    "load_weights",
    "read_fc_weights",
    "split_backbone",
]
