"""Which features a configuration asks for."""

from __future__ import annotations

import torch

from spp_detect.backbones import Backbone
from spp_detect.config import Config
from spp_detect.features import FeatureExtractor
from spp_detect.rcnn import RcnnExtractor


def make_extractor(
    backbone: Backbone, config: Config, device: torch.device
) -> FeatureExtractor | RcnnExtractor:
    """Make the configured extractor, SPP-net's or R-CNN's, of a trunk."""
    if config.extractor == "rcnn":
        return RcnnExtractor(backbone, config, device)
    return FeatureExtractor(backbone, config, device)
