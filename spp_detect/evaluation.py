"""Detection on a labelled split, and its average precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import (
    DEFAULT_MAX_SIDE,
    LabelledSet,
)
from eval import (
    SIMILAR_IN_VOC,
    VOC_CLASSES,
    Detections,
    ErrorAnalysis,
    Truths,
    VocResult,
    analyse_errors,
    evaluate_coco,
    evaluate_voc,
    find_best_score,
    tell_kinds,
)
from spp_detect.detector import PhotoDetector
from spp_detect.prefetch import WindowSource, prepare_photos, search_windows
from spp_detect.progress import track
from spp_detect.report.evaluation import write_evaluation_page


def detect_dataset(
    detector: PhotoDetector,
    dataset: LabelledSet,
    *,
    source: WindowSource | None = None,
    regress: bool = True,
    vote: bool = True,
    max_side: int = DEFAULT_MAX_SIDE,
) -> list[Detections]:
    """Detect in every photograph of a labelled set, in its order.

    Parameters
    ----------
    detector : PhotoDetector
        A loaded model, or several together.
    dataset : LabelledSet
        Photographs whose classes are the detector's.
    source : WindowSource, optional
        Where windows come from; by default the detector's method proposes them anew.
    regress, vote : bool
        As of `PhotoDetector.detect`.
    max_side : int
        Largest side of a photograph in pixels.

    Returns
    -------
    list of Detections
        One of each photograph.

    Raises
    ------
    DataError
        For a photograph that cannot be read.
    """
    source = source or search_windows(detector.proposal_settings)
    return [
        detector.detect(photo, windows, regress=regress, vote=vote)
        for photo, windows in prepare_dataset(dataset, source, max_side)
    ]


def prepare_dataset(
    dataset: LabelledSet, source: WindowSource, max_side: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Read each photograph of a labelled set, in its order, and find its windows.

    Raises
    ------
    DataError
        For a photograph that cannot be read.
    """
    paths = [photograph.path for photograph in dataset]
    for _, one in track(prepare_photos(paths, source, max_side), "detection", len(paths)):
        if isinstance(one, Exception):
            raise one
        yield one


def collect_truths(dataset: LabelledSet) -> list[Truths]:
    """Turn a set's labels into what the evaluators take."""
    return [Truths(p.labels.boxes, p.labels.classes, p.labels.difficult) for p in dataset]


def find_errors(detections: list[Detections], dataset: LabelledSet) -> ErrorAnalysis:
    """Sort false detections by their kind; VOC's classes are similar in Hoiem's groups.

    A set that has any class besides VOC's has no similar ones: the groups would hold a part of
    its animals and call the rest other.
    """
    similar = _find_similar(dataset)
    return analyse_errors(detections, collect_truths(dataset), dataset.classes, similar)


def _find_similar(dataset: LabelledSet) -> tuple[tuple[str, ...], ...]:
    return SIMILAR_IN_VOC if VOC_CLASSES.issuperset(dataset.classes) else ()


def write_page(
    out: Path,
    dataset: LabelledSet,
    detections: list[Detections],
    measured: tuple[VocResult, dict[str, Any], ErrorAnalysis],
    title: str,
) -> Path:
    """Write the page of an evaluation beside its figures; see `report.evaluation`."""
    truths = collect_truths(dataset)
    told = tell_kinds(detections, truths, dataset.classes, _find_similar(dataset))
    return write_evaluation_page(out, dataset, detections, truths, told, measured, title)


def measure(detections: list[Detections], dataset: LabelledSet) -> tuple[VocResult, dict[str, Any]]:
    """Evaluate detections by VOC's rules and by COCO's.

    Parameters
    ----------
    detections : list of Detections
        One of each photograph, in the order of the set.
    dataset : LabelledSet
        Where the true boxes are.

    Returns
    -------
    result : VocResult
        By the 11-point rule.
    metrics : dict
        The numbers for metrics.json: fractions, NaN for an absent class.
    """
    truths = collect_truths(dataset)
    result = evaluate_voc(detections, truths, dataset.classes)
    area = evaluate_voc(detections, truths, dataset.classes, metric="area")
    score, f1 = find_best_score(result)
    sizes = [(photograph.width, photograph.height) for photograph in dataset]
    numbers = {
        "mAP": result.mean_ap,
        "ap": result.ap,
        "metric": result.metric,
        "iou": result.iou,
        "mAP_area": area.mean_ap,
        "best_score": {"score": score, "mean_f1": f1},
        "coco": evaluate_coco(detections, truths, dataset.classes, sizes),
        "split": dataset.split,
        "photographs": len(dataset),
    }
    return result, numbers
