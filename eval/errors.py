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
from eval.voc import METRICS, average_precision

KINDS = ("correct", "localisation", "similar", "other", "background")
CORRECT, LOCALISATION, SIMILAR, OTHER, BACKGROUND = range(5)
NEAR = 0.1  # least overlap by which a false detection has to do with a box
CAUSES = (*KINDS[LOCALISATION:], "missed")

# Of each class's boxes by their area: the smallest tenth, and so on.
SIZES = ("XS", "S", "M", "L", "XL")
SIZE_BOUNDS = (0.1, 0.3, 0.7, 0.9)

SIMILAR_IN_VOC = (
    ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    ("bird", "cat", "cow", "dog", "horse", "sheep", "person"),
    ("chair", "diningtable", "sofa"),
    ("aeroplane", "bird"),
)
# The last three are similar to none.
VOC_CLASSES = frozenset(
    (*(name for group in SIMILAR_IN_VOC for name in group), "bottle", "pottedplant", "tvmonitor")
)


@dataclass(frozen=True)
class ErrorAnalysis:
    """What `analyse_errors` finds; all numbers but those of boxes are fractions, 0 to 1.

    Attributes
    ----------
    boxes : dict of str to int
        By class: how many boxes are not difficult, N below.
    shares : dict of str to dict of str to float
        By class, then by kind: shares of the N best detections; 0 where there are none.
    false_shares : dict of str to dict of str to float
        By class, then by kind of error: shares of the false ones among these N; 0 where none is.
    all_shares : dict of str to dict of str to float
        By class, then by kind: shares of all detections; 0 where there are none.
    found : dict of str to dict of str to float
        By class, then for "all" its boxes and by size: the share of boxes that a detection of the
        class overlaps enough, whatever its score; NaN where there is no box.
    ap : dict of str to dict of str to dict of str to float
        By rule ("11-point", "area"), then by what is gone, then by class; NaN for one without
        boxes. "now" is the AP as it is. Without "similar", "other" or "background" the
        detections of that kind are removed; without "localisation removed" those of localisation.
        Without "localisation" they are corrected: each box is found by the best detection near
        it, and the others near it are removed. Without "false" every false detection is removed.
        Without "missed" the boxes that are not found do not count; a class of which none is found
        keeps its AP.
    mean_ap : dict of str to dict of str to float
        By rule, then by what is gone: the mean of the classes that have boxes.
    worth : dict of str to float
        By cause, one of CAUSES: by how much the 11-point mAP would rise if it were gone.
    iou : float
        Least overlap of a correct detection.
    """

    boxes: dict[str, int]
    shares: dict[str, dict[str, float]]
    false_shares: dict[str, dict[str, float]]
    all_shares: dict[str, dict[str, float]]
    found: dict[str, dict[str, float]]
    ap: dict[str, dict[str, dict[str, float]]]
    mean_ap: dict[str, dict[str, float]]
    worth: dict[str, float]
    iou: float


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
    counted : bool (N,)
        Of all the class's detections, best first, which are these.
    """

    kinds: np.ndarray
    nearest: np.ndarray
    counted: np.ndarray


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
    box of a class that is similar or is not, and *background* near none; the first that fits is
    taken. Near is an overlap of 0.1. Detections that lie on difficult boxes of their class count
    for nothing.

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
        Least overlap of a correct detection, above 0.1 and at most 1.

    Returns
    -------
    ErrorAnalysis
        The kinds of error of each class, AP without each, and the boxes found by size.

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
    >>> analysis.found["cat"]["all"], analysis.found["dog"]["all"]
    (0.0, 0.0)
    >>> analysis.ap["area"]["localisation"]
    {'cat': 1.0, 'dog': 0.0}
    """
    names = check_classes(classes)
    check_lengths(detections, truths, "detections and truths")
    if not NEAR < iou <= 1:
        raise EvalError(f"iou: got {iou}, expected a number above {NEAR} and at most 1")
    alike = _make_table(names, similar)
    found, found_in = join_detections(detections, len(names))
    real, real_in = join_truths(truths, len(names))
    overlaps, nearest, covered = _find_overlaps(found, found_in, real, real_in, alike, iou)
    boxes, kinds, found_shares, lists = {}, {}, {}, {}
    for label, name in enumerate(names):
        of_class = np.flatnonzero(found.labels == label)
        rows = of_class[np.argsort(-found.scores[of_class], kind="stable")]
        ranked = _sort(overlaps[rows], nearest[rows], real.difficult, iou)
        own = np.flatnonzero((real.labels == label) & ~real.difficult)
        boxes[name], kinds[name] = len(own), ranked.kinds
        found_shares[name] = _share_by_size(real.boxes[own], covered[own])
        lists[name] = _imagine(ranked, len(own), int(covered[own].sum()))
    best = {name: kinds[name][: boxes[name]] for name in names}
    ap, mean_ap = _measure_all(lists)
    gains = mean_ap["11-point"]
    return ErrorAnalysis(
        boxes=boxes,
        shares={name: _share(best[name]) for name in names},
        false_shares={name: _share(best[name], LOCALISATION) for name in names},
        all_shares={name: _share(kinds[name]) for name in names},
        found=found_shares,
        ap=ap,
        mean_ap=mean_ap,
        worth={cause: gains[cause] - gains["now"] for cause in CAUSES},
        iou=float(iou),
    )


@dataclass(frozen=True)
class ToldDetections:
    """Each detection of some photographs by its kind, and each box by whether it was found.

    Attributes
    ----------
    kinds : list of numpy.ndarray
        Of each photograph, int64 ``(N,)``: indices into `KINDS`, -1 for what counts for nothing.
    found : list of numpy.ndarray
        Of each photograph, bool ``(M,)``: whether a detection of its class overlaps the box enough.
    """

    kinds: list[np.ndarray]
    found: list[np.ndarray]


def tell_kinds(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    classes: Sequence[str],
    similar: Sequence[Sequence[str]] = (),
    iou: float = 0.5,
) -> ToldDetections:
    """Tell the kind of each detection, as `analyse_errors` counts them; the arguments are its own.

    Examples
    --------
    >>> import numpy as np
    >>> from eval import Detections, Truths
    >>> truth = Truths(np.array([[0, 0, 10, 10]]), np.array([0]), np.array([False]))
    >>> found = Detections([[0, 0, 10, 9], [0, 0, 4, 10], [50, 50, 60, 60]], [0.9, 0.8, 0.7],
    ...                    [0, 0, 0])
    >>> told = tell_kinds([found], [truth], ["cat"])
    >>> [KINDS[kind] for kind in told.kinds[0]], told.found[0]
    (['correct', 'localisation', 'background'], array([ True]))
    """
    names = check_classes(classes)
    check_lengths(detections, truths, "detections and truths")
    alike = _make_table(names, similar)
    found, found_in = join_detections(detections, len(names))
    real, real_in = join_truths(truths, len(names))
    overlaps, nearest, covered = _find_overlaps(found, found_in, real, real_in, alike, iou)
    kinds = np.full(len(found.boxes), -1)
    for label in range(len(names)):
        of_class = np.flatnonzero(found.labels == label)
        rows = of_class[np.argsort(-found.scores[of_class], kind="stable")]
        ranked = _sort(overlaps[rows], nearest[rows], real.difficult, iou)
        kinds[rows[ranked.counted]] = ranked.kinds
    ends = (np.cumsum([len(one.boxes) for one in own])[:-1] for own in (detections, truths))
    return ToldDetections(*map(np.split, (kinds, covered), ends))


def count_confusions(
    detections: Sequence[Detections], truths: Sequence[Truths], classes: int, iou: float = 0.5
) -> np.ndarray:
    """Count which class each box was taken for, the surest detection first.

    Parameters
    ----------
    detections, truths : sequence
        Of each photograph.
    classes : int
        C.
    iou : float
        Least overlap of a detection with the box that it stands for, whatever its class.

    Returns
    -------
    numpy.ndarray
        Int64 ``(C + 1, C + 1)``: rows are true classes, the last one the background; columns are
        those of the detections, the last one boxes that no detection stands for. Difficult boxes
        count for nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from eval import Detections, Truths
    >>> boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])
    >>> truth = Truths(boxes, np.array([0, 1]), np.array([False, False]))
    >>> found = Detections([[0, 0, 10, 9], [50, 50, 60, 60]], [0.9, 0.8], [1, 0])
    >>> count_confusions([found], [truth], 2)
    array([[0, 1, 0],
           [0, 0, 1],
           [1, 0, 0]])
    """
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    for found, truth in zip(detections, truths, strict=True):
        boxes = [np.asarray(one.boxes, float).reshape(-1, 4) for one in (found, truth)]
        ious = box_iou(*map(torch.from_numpy, boxes)).nan_to_num(0.0).numpy()
        free = np.ones(len(truth.boxes), bool)
        for row in np.argsort(-np.asarray(found.scores), kind="stable"):
            own = np.where(free, ious[row], -1.0)
            best = int(own.argmax()) if len(own) else -1
            if best < 0 or own[best] < iou:
                counts[classes, found.labels[row]] += 1
                continue
            free[best] = False
            if not truth.difficult[best]:
                counts[truth.labels[best], found.labels[row]] += 1
        for missed in np.flatnonzero(free & ~np.asarray(truth.difficult)):
            counts[truth.labels[missed], classes] += 1
    return counts


def _make_table(names: Sequence[str], similar: Sequence[Sequence[str]]) -> np.ndarray:
    """Which classes are similar: bool (C, C), none to itself."""
    table = np.zeros((len(names), len(names)), bool)
    for group in similar:
        members = [i for i, name in enumerate(names) if name in group]
        table[np.ix_(members, members)] = True
    np.fill_diagonal(table, False)
    return table


def _find_overlaps(
    found: Detections,
    found_in: np.ndarray,
    real: Truths,
    real_in: np.ndarray,
    alike: np.ndarray,
    iou: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Best overlaps with boxes of the same class, of similar and of other ones: float (N, 3).

    And the box of the same class that is overlapped most, int64 (N,), -1 where there is none; and
    which of the M boxes a detection of the same class overlaps by iou, bool (M,).
    """
    overlaps = np.zeros((len(found.boxes), 3))
    nearest = np.full(len(found.boxes), -1, np.int64)
    covered = np.zeros(len(real.boxes), bool)
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
        covered[boxes] = (own >= iou).any(axis=0)
    return overlaps, nearest, covered


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
    return _Sorted(kinds, np.where(near, nearest, -1), counted)


def _share(kinds: np.ndarray, first: int = CORRECT) -> dict[str, float]:
    """Shares of the kinds from the first on."""
    counts = np.bincount(kinds, minlength=len(KINDS))[first:]
    return dict(zip(KINDS[first:], (counts / max(1, counts.sum())).tolist(), strict=True))


def _share_by_size(boxes: np.ndarray, hit: np.ndarray) -> dict[str, float]:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    ranks = (np.argsort(np.argsort(areas, kind="stable")) + 0.5) / max(1, len(areas))
    size = np.searchsorted(SIZE_BOUNDS, ranks)
    parts = {"all": hit} | {name: hit[size == i] for i, name in enumerate(SIZES)}
    return {name: float(part.mean()) if len(part) else float("nan") for name, part in parts.items()}


def _imagine(ranked: _Sorted, total: int, covered: int) -> dict[str, tuple[np.ndarray, int]]:
    """One class as it is and without each cause: which detections are hits, of how many boxes."""
    kinds = ranked.kinds
    hits = kinds == CORRECT
    # Each box near which a detection lies is found by the best of them.
    near = np.flatnonzero(ranked.nearest >= 0)
    _, first = np.unique(ranked.nearest[near], return_index=True)
    moved = np.zeros(len(kinds), bool)
    moved[near[first]] = True
    stays = moved | (kinds > LOCALISATION)
    without = {KINDS[kind]: hits[kinds != kind] for kind in (SIMILAR, OTHER, BACKGROUND)}
    lists = {
        "now": hits,
        "localisation": moved[stays],
        "localisation removed": hits[kinds != LOCALISATION],
        **without,
        "false": hits[hits],
    }
    return {gone: (left, total) for gone, left in lists.items()} | {
        "missed": (hits, covered or total)
    }


def _measure_all(
    lists: dict[str, dict[str, tuple[np.ndarray, int]]],
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, float]]]:
    """AP by rule, by what is gone and by class, and its means over the classes with boxes."""
    gone = next(iter(lists.values()))
    ap = {
        metric: {
            cause: {name: _measure(*lists[name][cause], metric) for name in lists} for cause in gone
        }
        for metric in METRICS
    }
    return ap, {
        metric: {cause: _average(values) for cause, values in table.items()}
        for metric, table in ap.items()
    }


def _measure(hits: np.ndarray, total: int, metric: str) -> float:
    if not total:
        return float("nan")
    counts = np.cumsum(hits)
    precision = counts / np.arange(1, len(hits) + 1)
    return average_precision(precision, counts / total, metric)


def _average(values: dict[str, float]) -> float:
    known = [value for value in values.values() if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
