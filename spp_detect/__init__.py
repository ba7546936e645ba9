"""SPP-net object detection (He, Zhang, Ren, Sun, arXiv 1406.4729)."""

from spp_detect.rooms import check_rooms

check_rooms()

from spp_detect.config import Config, make_config  # noqa: E402
from spp_detect.detector import Detector, ModelError  # noqa: E402
from spp_detect.pyramid import SpatialPyramidPool  # noqa: E402

__all__ = ["Config", "Detector", "ModelError", "SpatialPyramidPool", "make_config"]
