"""Average precision by the rules of the PASCAL VOC development kit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.ops import box_iou

from eval.detections import (
    Detections,
    EvalError,
    Truths,
    check_classes,
    check_lengths,
    join_detections,
    join_truths,
)

METRICS = ("11-point", "area")

# i * 0.1 and not i / 10, as np.arange(0, 1.1, 0.1) in the devkit's Python ports: 3 * 0.1, 6 * 0.1
# and 7 * 0.1 are a little above 0.3, 0.6 and 0.7, so a recall of exactly 3/10 does not reach
# the fourth point. Published numbers contain it.
_RECALL_POINTS = np.arange(11) * 0.1


@dataclass(frozen=True)
class Curve:
    """Precision and recall of one class, detection by detection in descending score.

    Detections that lie on difficult truths count for nothing and leave no point.

    Attributes
    ----------
    precision : numpy.ndarray
        Float64 ``(K,)``, true positives / detections so far.
    recall : numpy.ndarray
        Float64 ``(K,)``, true positives / non-difficult truths; NaN without any.
    scores : numpy.ndarray
        Float64 ``(K,)``, the score of the detection that made the step.
    """

    precision: np.ndarray
    recall: np.ndarray
    scores: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        """Bool ``(K,)``, which of the detections are true positives."""
        so_far = np.rint(self.precision * np.arange(1, len(self.precision) + 1))
        return np.diff(so_far, prepend=0) > 0


@dataclass(frozen=True)
class VocResult:
    """What `evaluate_voc` finds.

    Attributes
    ----------
    classes : tuple of str
        The names of the classes.
    ap : dict of str to float
        The AP of each class, 0 to 1; NaN for one without non-difficult truths.
    mean_ap : float
        The mean of those that are not NaN.
    curves : dict of str to Curve
        The precision-recall curve of each class.
    metric : str
        The rule of AP, see `average_precision`.
    iou : float
        Least intersection over union of a match.
    """

    classes: tuple[str, ...]
    ap: dict[str, float]
    mean_ap: float
    curves: dict[str, Curve]
    metric: str
    iou: float


def evaluate_voc(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    classes: Sequence[str],
    *,
    iou: float = 0.5,
    metric: str = "11-point",
) -> VocResult:
    """Compare detections with truths as the development kit's ``VOCevaldet`` does.

    The detections of a class in all photographs are taken in descending score; equal scores keep
    the order in which they are given. Each is assigned to the truth of its photograph and class
    that it overlaps most. Below ``iou`` it is a false positive. At or above it, it counts for
    nothing if the truth is difficult, is a true positive if it is the first to be assigned to
    that truth, and a false positive after that.

    Parameters
    ----------
    detections : sequence of Detections
        One per photograph; boxes in pixels of the photograph.
    truths : sequence of Truths
        The same photographs in the same order.
    classes : sequence of str
        The names that the labels index.
    iou : float
        Least intersection over union of a match, above 0 and at most 1.
    metric : {"11-point", "area"}
        The rule of VOC 2007 or that of VOC 2010 and later; see `average_precision`.

    Returns
    -------
    VocResult
        AP as fractions, 0 to 1.

    Raises
    ------
    EvalError
        On lengths, shapes, labels or numbers that do not fit.

    Examples
    --------
    The surest detection is a hit, the next lies nowhere, the second truth is never found.

    >>> import numpy as np
    >>> from eval import Detections, Truths
    >>> boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])
    >>> truths = [Truths(boxes, np.array([0, 0]), np.array([False, False]))]
    >>> found = Detections([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], [0, 0])
    >>> result = evaluate_voc([found], truths, ["cat"])
    >>> result.curves["cat"].precision, result.curves["cat"].recall
    (array([1. , 0.5]), array([0.5, 0.5]))
    >>> round(result.mean_ap, 3)
    0.545
    >>> evaluate_voc([found], truths, ["cat"], metric="area").mean_ap
    0.5
    """
    names = check_classes(classes)
    check_lengths(detections, truths, "detections and truths")
    _check_metric(metric)
    if not 0 < iou <= 1:
        raise EvalError(f"iou: got {iou}, expected a number above 0 and at most 1")
    found, found_in = join_detections(detections, len(names))
    real, real_in = join_truths(truths, len(names))
    overlap, nearest = _find_nearest(
        found.boxes,
        found_in * len(names) + found.labels,
        real.boxes,
        real_in * len(names) + real.labels,
    )
    nearest[overlap < iou] = -1
    curves, ap = {}, {}
    for label, name in enumerate(names):
        of_class = np.flatnonzero(found.labels == label)
        descending = of_class[np.argsort(-found.scores[of_class], kind="stable")]
        total = int(np.count_nonzero((real.labels == label) & ~real.difficult))
        curve = _trace(found.scores[descending], nearest[descending], real.difficult, total)
        curves[name] = curve
        ap[name] = (
            average_precision(curve.precision, curve.recall, metric) if total else float("nan")
        )
    known = [value for value in ap.values() if not np.isnan(value)]
    mean_ap = float(np.mean(known)) if known else float("nan")
    return VocResult(names, ap, mean_ap, curves, metric, float(iou))


def find_best_score(result: VocResult) -> tuple[float, float]:
    """Find the one score for all classes above which their mean F1 is best.

    Parameters
    ----------
    result : VocResult
        Of a split that was not trained on.

    Returns
    -------
    score : float
        One of the detections', or NaN without any.
    f1 : float
        The mean F1 of the classes that have truths when only detections that score at least as
        much are kept.

    Examples
    --------
    Of four detections the first and the third are right, and there are no other truths: keeping
    three gives a precision of 2/3 and a recall of 1.

    >>> import numpy as np
    >>> from eval import Curve, VocResult
    >>> precision, recall = np.array([1, 1 / 2, 2 / 3, 1 / 2]), np.array([0.5, 0.5, 1, 1])
    >>> curve = Curve(precision, recall, scores=np.array([0.9, 0.6, 0.4, 0.2]))
    >>> result = VocResult(("cat",), {"cat": 0.5}, 0.5, {"cat": curve}, "area", 0.5)
    >>> score, f1 = find_best_score(result)
    >>> score, round(f1, 2)
    (0.4, 0.8)
    """
    curves = [result.curves[name] for name, ap in result.ap.items() if not np.isnan(ap)]
    scores = np.unique(np.concatenate([curve.scores for curve in curves] or [np.zeros(0)]))
    if len(scores) == 0:
        return float("nan"), 0.0
    f1 = np.zeros(len(scores))
    for curve in curves:
        kept = np.searchsorted(-curve.scores, -scores, side="right")
        precision = np.concatenate([[0.0], curve.precision])[kept]
        recall = np.concatenate([[0.0], curve.recall])[kept]
        both = precision + recall
        f1 += 2 * precision * recall / np.where(both > 0, both, 1) / len(curves)
    best = int(np.argmax(f1))
    return float(scores[best]), float(f1[best])


def average_precision(precision: np.ndarray, recall: np.ndarray, metric: str) -> float:
    """Summarise one precision-recall curve in one number.

    Parameters
    ----------
    precision, recall : numpy.ndarray
        Shape ``(K,)`` each, fractions; recall does not decrease.
    metric : {"11-point", "area"}
        ``"11-point"``, VOC 2007: the mean over t = 0, 0.1 … 1 of the highest precision at recall
        ≥ t, 0 where the curve does not reach t. ``"area"``, VOC 2010: the area under the
        precision made monotone (the highest precision at this or any higher recall).

    Returns
    -------
    float
        0 to 1; 0 for a curve without points.

    Raises
    ------
    EvalError
        On an unknown metric, unequal lengths, NaN, or falling recall.

    Examples
    --------
    >>> import numpy as np
    >>> precision, recall = np.array([1, 0.5]), np.array([0.5, 0.5])
    >>> average_precision(precision, recall, "area")
    0.5
    >>> average_precision(precision, recall, "11-point") == 6 / 11
    True
    """
    _check_metric(metric)
    precision = np.asarray(precision, dtype=np.float64)
    recall = np.asarray(recall, dtype=np.float64)
    if precision.ndim != 1 or precision.shape != recall.shape:
        raise EvalError(
            f"precision and recall: got shapes {precision.shape} and {recall.shape}, "
            "expected the same (K,)"
        )
    if not (np.isfinite(precision).all() and np.isfinite(recall).all()):
        raise EvalError("precision and recall: got NaN or infinity, expected fractions")
    if (np.diff(recall) < 0).any():
        raise EvalError("recall: got falling values, expected the order of descending score")
    # best_after[i] is the highest precision at point i or any later one.
    best_after = np.maximum.accumulate(precision[::-1])[::-1]
    if metric == "area":
        return float(np.sum(np.diff(recall, prepend=0.0) * best_after))
    reached = np.searchsorted(recall, _RECALL_POINTS, side="left")
    return float(np.mean(np.append(best_after, 0.0)[reached]))


def _check_metric(metric: str) -> None:
    if metric not in METRICS:
        raise EvalError(f"metric: got {metric!r}, expected one of {', '.join(METRICS)}")


def _find_nearest(
    boxes: np.ndarray, keys: np.ndarray, truths: np.ndarray, truth_keys: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return each box's largest IoU with a truth of the same key, and the index of that truth.

    A key stands for one (photograph, class); a box whose key has no truth gets 0 and -1. Of
    equally near truths the first is taken, as in the devkit.
    """
    overlap = np.zeros(len(boxes))
    nearest = np.full(len(boxes), -1, dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    truth_order = np.argsort(truth_keys, kind="stable")
    groups = np.unique(truth_keys)
    lows, highs = (np.searchsorted(keys[order], groups, side) for side in ("left", "right"))
    starts, stops = (
        np.searchsorted(truth_keys[truth_order], groups, side) for side in ("left", "right")
    )
    for low, high, start, stop in zip(lows, highs, starts, stops, strict=True):
        if low == high:
            continue
        rows, candidates = order[low:high], truth_order[start:stop]
        table = box_iou(torch.from_numpy(boxes[rows]), torch.from_numpy(truths[candidates]))
        # Two boxes without area give 0 / 0.
        ious = table.nan_to_num(0.0).numpy()
        index = ious.argmax(axis=1)
        overlap[rows] = ious[np.arange(len(rows)), index]
        nearest[rows] = candidates[index]
    return overlap, nearest


def _trace(scores: np.ndarray, nearest: np.ndarray, difficult: np.ndarray, total: int) -> Curve:
    """Return the curve of one class from its detections in descending score.

    ``nearest`` is the truth that each detection lies on, -1 for none; ``total`` the number of
    non-difficult truths.
    """
    counted = np.ones(len(nearest), dtype=bool)
    counted[nearest >= 0] = ~difficult[nearest[nearest >= 0]]
    scores, nearest = scores[counted], nearest[counted]
    hit = np.zeros(len(nearest), dtype=bool)
    truths, first = np.unique(nearest, return_index=True)
    hit[first[truths >= 0]] = True
    hits = np.cumsum(hit)
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / total if total else np.full(len(hits), np.nan)
    return Curve(precision, recall, scores)
