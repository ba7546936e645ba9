"""SPP-net object detection (He, Zhang, Ren, Sun, arXiv 1406.4729)."""

import os

from spp_detect.name_guard import claim_packages

# Idle threads must leave the cores to those with work, ours or others', instead of waiting for more
# in a loop. Read when torch, and when NumPy, is imported: see `threads`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2^4 ticks; by default 2^26 and more
claim_packages()

from spp_detect.config import Config, make_config  # noqa: E402
from spp_detect.detector import Detector  # noqa: E402
from spp_detect.model_folder import ModelError  # noqa: E402
from spp_detect.pyramid import SpatialPyramidPool  # noqa: E402

__all__ = ["Config", "Detector", "ModelError", "SpatialPyramidPool", "make_config"]
