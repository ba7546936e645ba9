"""Windows that may hold an object: selective search, EdgeBoxes, files of boxes, their recall."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from proposals.settings import METHODS, ProposalError, ProposalSettings

if TYPE_CHECKING:
    from proposals.boxes_file import BoxesFile, load_boxes, save_boxes
    from proposals.cache import ProposalCache
    from proposals.opencv import check_opencv
    from proposals.recall import Recall, measure_recall
    from proposals.windows import propose

# Imported when first asked for, as they bring OpenCV, numba or torch.
_HOMES = {
    "BoxesFile": "boxes_file",
    "ProposalCache": "cache",
    "Recall": "recall",
    "check_opencv": "opencv",
    "load_boxes": "boxes_file",
    "measure_recall": "recall",
    "propose": "windows",
    "save_boxes": "boxes_file",
}

__all__ = [
    "METHODS",
    "BoxesFile",
    "ProposalCache",
    "ProposalError",
    "ProposalSettings",
    "Recall",
    "check_opencv",
    "load_boxes",
    "measure_recall",
    "propose",
    "save_boxes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
