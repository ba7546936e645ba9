"""Windows that may hold an object: selective search, EdgeBoxes, files of boxes, their recall."""

from proposals.boxes_file import BoxesFile, load_boxes, save_boxes
from proposals.cache import ProposalCache
from proposals.opencv import check_opencv
from proposals.recall import Recall, measure_recall
from proposals.settings import METHODS, ProposalError, ProposalSettings
from proposals.windows import propose

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
