"""Average precision as PASCAL VOC and COCO count it, and the files both exchange."""

from eval.calibration import ScoreOdds, find_log_odds, fit_odds
from eval.coco import evaluate_coco
from eval.curves import plot_curves
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
