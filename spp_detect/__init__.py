"""SPP-net object detection (He, Zhang, Ren, Sun, arXiv 1406.4729)."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from spp_detect.name_guard import claim_packages

# Idle threads must leave the cores to those with work, ours or others', instead of waiting for more
# in a loop. Read when torch, and when NumPy, is imported: see `threads`.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2^4 ticks; by default 2^26 and more
claim_packages()

if TYPE_CHECKING:
    from spp_detect.config import Config, make_config
    from spp_detect.detector import Detector
    from spp_detect.model_folder import ModelError
    from spp_detect.pyramid import SpatialPyramidPool

# Imported when first asked for: torch takes seconds, which the command line's help can do without.
_HOMES = {
    "Config": "config",
    "Detector": "detector",
    "ModelError": "model_folder",
    "SpatialPyramidPool": "pyramid",
    "make_config": "config",
}

__all__ = ["Config", "Detector", "ModelError", "SpatialPyramidPool", "make_config"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
