"""Windows that may hold an object: selective search, EdgeBoxes, files of boxes, their recall."""

from .boxes_file import BoxesFile, load_boxes, save_boxes
from .cache import ProposalCache
from .opencv import check_opencv
from .recall import Recall, measure_recall
from .settings import METHODS, ProposalError, ProposalSettings
from .windows import propose

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
