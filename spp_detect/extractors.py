"""Which features a configuration asks for."""

from __future__ import annotations

import torch

from spp_detect.backbones import Backbone
from spp_detect.config import Config
from spp_detect.features import Extractor
from spp_detect.rcnn import RcnnExtractor
from spp_detect.spp import SppExtractor

EXTRACTORS: dict[str, type[Extractor]] = {"spp": SppExtractor, "rcnn": RcnnExtractor}


def make_extractor(backbone: Backbone, config: Config, device: torch.device) -> Extractor:
    """Make the configured extractor, SPP-net's or R-CNN's, of a trunk."""
    return EXTRACTORS[config.extractor](backbone, config, device)
