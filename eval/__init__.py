"""Average precision as PASCAL VOC and COCO count it, and the files both exchange."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eval.calibration import ScoreOdds, find_log_odds, fit_odds
from eval.detections import Detection, Detections, EvalError, Truths
from eval.errors import (
    KINDS,
    SIMILAR_IN_VOC,
    VOC_CLASSES,
    ErrorAnalysis,
    ToldDetections,
    analyse_errors,
    count_confusions,
    tell_kinds,
)
from eval.files import (
    quote_spaces,
    read_coco_results,
    read_comp,
    write_coco_results,
    write_comp,
)
from eval.voc import Curve, VocResult, average_precision, evaluate_voc, find_best_score

if TYPE_CHECKING:
    from eval.coco import evaluate_coco
    from eval.curves import plot_curves

# Imported when first asked for, as they bring pycocotools and matplotlib.
_HOMES = {"evaluate_coco": "coco", "plot_curves": "curves"}

__all__ = [
    "KINDS",
    "SIMILAR_IN_VOC",
    "VOC_CLASSES",
    "Curve",
    "Detection",
    "Detections",
    "ErrorAnalysis",
    "EvalError",
    "ScoreOdds",
    "ToldDetections",
    "Truths",
    "VocResult",
    "analyse_errors",
    "average_precision",
    "count_confusions",
    "evaluate_coco",
    "evaluate_voc",
    "find_best_score",
    "find_log_odds",
    "fit_odds",
    "plot_curves",
    "quote_spaces",
    "read_coco_results",
    "read_comp",
    "tell_kinds",
    "write_coco_results",
    "write_comp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
