"""Average precision as PASCAL VOC and COCO count it, and the files both exchange."""

from .coco import evaluate_coco
from .curves import plot_curves
from .detections import Detections, EvalError, Truths
from .files import read_coco_results, read_comp, write_coco_results, write_comp
from .voc import Curve, VocResult, average_precision, evaluate_voc

__all__ = [
    "Curve",
    "Detections",
    "EvalError",
    "Truths",
    "VocResult",
    "average_precision",
    "evaluate_coco",
    "evaluate_voc",
    "plot_curves",
    "read_coco_results",
    "read_comp",
    "write_coco_results",
    "write_comp",
]
