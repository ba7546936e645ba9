"""What is wrong with detections: the kinds of error of Hoiem et al. (ECCV 2012)."""

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
from eval.voc import average_precision

KINDS = ("correct", "localisation", "similar", "other", "background")
CORRECT, LOCALISATION, SIMILAR, OTHER, BACKGROUND = range(5)
NEAR = 0.1  # least overlap by which a false detection has to do with a box

# Of each class's boxes by their area: the smallest tenth, and so on.
SIZES = ("XS", "S", "M", "L", "XL")
SIZE_BOUNDS = (0.1, 0.3, 0.7, 0.9)

SIMILAR_IN_VOC = (
    ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    ("bird", "cat", "cow", "dog", "horse", "sheep", "person"),
    ("chair", "diningtable", "sofa"),
    ("aeroplane", "bird"),
)


@dataclass(frozen=True)
class ErrorAnalysis:
    """What `analyse_errors` finds.

    Attributes
    ----------
    shares : dict of str to dict of str to float
        By class, then by kind: shares of the N best detections, N the boxes of the class.
    worth : dict of str to float
        By cause: by how much the mAP would rise if it were gone, a fraction. The causes are the
        kinds of error and "missed". Without localisation errors a detection near a box would lie
        on it; of each box all but the best would be gone.
    found : dict of str to dict of str to float
        By class, then by size: the share of boxes found at all; NaN where there is no box.
    """

    shares: dict[str, dict[str, float]]
    worth: dict[str, float]
    found: dict[str, dict[str, float]]


@dataclass(frozen=True)
class _Sorted:
    """The detections of one class, best first, without those on difficult boxes.

    Attributes
    ----------
    kinds : int64 (K,)
        Of each.
    nearest : int64 (K,)
        The box of the class that each overlaps most; -1 for none by as much as NEAR, and for one
        that is difficult.
    """

    kinds: np.ndarray
    nearest: np.ndarray


def analyse_errors(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    classes: Sequence[str],
    similar: Sequence[Sequence[str]] = (),
    iou: float = 0.5,
) -> ErrorAnalysis:
    """Sort false detections by their kind, and tell what each kind costs.

    A detection is *correct* where VOC counts it so. Else it is an error of *localisation* where it
    lies near a box of its class (a second one on the same box, too), *similar* or *other* near a
    box of a class that is similar or is not, and *background* near none. Near is an overlap of 0.1.
    Detections on difficult boxes count for nothing.

    Parameters
    ----------
    detections : sequence of Detections
        Of each photograph.
    truths : sequence of Truths
        The same photographs in the same order.
    classes : sequence of str
        The names that the labels index.
    similar : sequence of sequences of str
        Groups of classes that are similar; a class may be in several. Unknown names are passed
        over.
    iou : float
        Least overlap of a correct detection.

    Returns
    -------
    ErrorAnalysis
        Worths by the 11-point rule.

    Raises
    ------
    EvalError
        On lengths, shapes, labels or numbers that do not fit.

    Examples
    --------
    The best detection covers half of the cat, the next lies on the dog, the third on nothing.

    >>> import numpy as np
    >>> from eval import Detections, Truths
    >>> boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])
    >>> truths = [Truths(boxes, np.array([0, 1]), np.array([False, False]))]
    >>> found = Detections(
    ...     [[0, 0, 4, 10], [20, 0, 30, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7], [0, 0, 1]
    ... )
    >>> analysis = analyse_errors([found], truths, ["cat", "dog"], [["cat", "dog"]])
    >>> analysis.shares["cat"]["localisation"], analysis.shares["dog"]["background"]
    (1.0, 1.0)
    >>> analysis.worth["localisation"]
    0.5
    """
    names = check_classes(classes)
    check_lengths(detections, truths, "detections and truths")
    if not NEAR < iou <= 1:
        raise EvalError(f"iou: got {iou}, expected a number above {NEAR} and at most 1")
    alike = _make_table(names, similar)
    found, found_in = join_detections(detections, len(names))
    real, real_in = join_truths(truths, len(names))
    overlaps, nearest = _find_overlaps(found, found_in, real, real_in, alike)
    shares, found_shares, aps = {}, {}, []
    for label, name in enumerate(names):
        of_class = np.flatnonzero(found.labels == label)
        rows = of_class[np.argsort(-found.scores[of_class], kind="stable")]
        ranked = _sort(overlaps[rows], nearest[rows], real.difficult, iou)
        boxes = np.flatnonzero((real.labels == label) & ~real.difficult)
        shares[name] = _share(ranked.kinds[: len(boxes)])
        hit = np.isin(boxes, ranked.nearest[ranked.kinds == CORRECT])
        found_shares[name] = _share_by_size(real.boxes[boxes], hit)
        if len(boxes):
            aps.append(_imagine(ranked, len(boxes), int(hit.sum())))
    worth = {
        cause: float(np.mean([ap[cause] - ap["now"] for ap in aps])) if aps else float("nan")
        for cause in (*KINDS[LOCALISATION:], "missed")
    }
    return ErrorAnalysis(shares, worth, found_shares)


def _make_table(names: Sequence[str], similar: Sequence[Sequence[str]]) -> np.ndarray:
    """Which classes are similar: bool (C, C), none to itself."""
    table = np.zeros((len(names), len(names)), bool)
    for group in similar:
        members = [i for i, name in enumerate(names) if name in group]
        table[np.ix_(members, members)] = True
    np.fill_diagonal(table, False)
    return table


def _find_overlaps(
    found: Detections, found_in: np.ndarray, real: Truths, real_in: np.ndarray, alike: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Best overlaps with boxes of the same class, of similar and of other ones: float (N, 3).

    And the box of the same class that is overlapped most, int64 (N,), -1 where there is none.
    """
    overlaps = np.zeros((len(found.boxes), 3))
    nearest = np.full(len(found.boxes), -1, np.int64)
    order, real_order = (np.argsort(keys, kind="stable") for keys in (found_in, real_in))
    photographs = np.unique(real_in)
    rows_of = _split(found_in[order], photographs, order)
    boxes_of = _split(real_in[real_order], photographs, real_order)
    for rows, boxes in zip(rows_of, boxes_of, strict=True):
        if not len(rows):
            continue
        table = box_iou(torch.from_numpy(found.boxes[rows]), torch.from_numpy(real.boxes[boxes]))
        ious = table.nan_to_num(0.0).numpy()  # two boxes without area give 0 / 0
        labels, of_boxes = found.labels[rows][:, None], real.labels[boxes][None]
        same, near = labels == of_boxes, alike[labels, of_boxes]
        kinds = np.stack([same, near, ~same & ~near])
        overlaps[rows] = np.where(kinds, ious, 0.0).max(axis=2).T
        own = np.where(same, ious, -1.0)
        best = own.argmax(axis=1)
        nearest[rows] = np.where(same.any(axis=1), boxes[best], -1)
    return overlaps, nearest


def _split(keys: np.ndarray, wanted: np.ndarray, items: np.ndarray) -> list[np.ndarray]:
    """The items under each wanted key; keys increase."""
    starts, stops = (np.searchsorted(keys, wanted, side) for side in ("left", "right"))
    return [items[a:b] for a, b in zip(starts, stops, strict=True)]


def _sort(overlaps: np.ndarray, nearest: np.ndarray, difficult: np.ndarray, iou: float) -> _Sorted:
    """Tell the kinds of one class's detections, best first."""
    lies = overlaps[:, 0] >= iou
    counted = ~lies
    counted[lies] = ~difficult[nearest[lies]]
    overlaps, nearest, lies = overlaps[counted], nearest[counted], lies[counted]
    kinds = np.full(len(nearest), BACKGROUND)
    for kind, column in ((OTHER, 2), (SIMILAR, 1), (LOCALISATION, 0)):
        kinds[overlaps[:, column] >= NEAR] = kind
    where = np.flatnonzero(lies)
    _, first = np.unique(nearest[where], return_index=True)
    kinds[where[first]] = CORRECT
    near = overlaps[:, 0] >= NEAR
    near[near] = ~difficult[nearest[near]]
    return _Sorted(kinds, np.where(near, nearest, -1))


def _share(kinds: np.ndarray) -> dict[str, float]:
    counts = np.bincount(kinds, minlength=len(KINDS))
    return dict(zip(KINDS, (counts / max(1, len(kinds))).tolist(), strict=True))


def _share_by_size(boxes: np.ndarray, hit: np.ndarray) -> dict[str, float]:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ranks = (np.argsort(np.argsort(areas, kind="stable")) + 0.5) / max(1, len(areas))
    size = np.searchsorted(SIZE_BOUNDS, ranks)
    return {
        name: float(hit[size == i].mean()) if (size == i).any() else float("nan")
        for i, name in enumerate(SIZES)
    }


def _imagine(ranked: _Sorted, total: int, found: int) -> dict[str, float]:
    """AP as it is and without each cause."""
    kinds = ranked.kinds
    ap = {"now": _measure(kinds == CORRECT, total)}
    # Each box near which a detection lies is found by the best of them.
    near = np.flatnonzero(ranked.nearest >= 0)
    _, first = np.unique(ranked.nearest[near], return_index=True)
    moved = np.zeros(len(kinds), bool)
    moved[near[first]] = True
    stays = moved | (kinds > LOCALISATION)
    ap["localisation"] = _measure(moved[stays], total)
    for kind in (SIMILAR, OTHER, BACKGROUND):
        ap[KINDS[kind]] = _measure(kinds[kinds != kind] == CORRECT, total)
    ap["missed"] = _measure(kinds == CORRECT, found) if found else ap["now"]
    return ap


def _measure(hits: np.ndarray, total: int) -> float:
    counts = np.cumsum(hits)
    precision = counts / np.arange(1, len(hits) + 1)
    return average_precision(precision, counts / total, "11-point")
