"""SPP-net object detection (He, Zhang, Ren, Sun, arXiv 1406.4729)."""

import os

from spp_detect.name_guard import claim_packages

# Read when torch is imported: its idle threads must leave the cores to those that search windows.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
claim_packages()

from spp_detect.config import Config, make_config  # noqa: E402
from spp_detect.detector import Detector  # noqa: E402
from spp_detect.model_folder import ModelError  # noqa: E402
from spp_detect.pyramid import SpatialPyramidPool  # noqa: E402

__all__ = ["Config", "Detector", "ModelError", "SpatialPyramidPool", "make_config"]
