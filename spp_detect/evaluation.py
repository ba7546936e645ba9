"""Detection on a labelled split, and its average precision."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import (
    DEFAULT_MAX_SIDE,
    DataError,
    LabelledSet,
    find_photographs,
    is_labelled,
    open_dataset,
)
from eval import Detections, Truths, VocResult, evaluate_coco, evaluate_voc, find_best_score
from proposals import ProposalSettings, Recall, measure_recall, save_boxes
from spp_detect.detector import PhotoDetector
from spp_detect.files import write_json
from spp_detect.prefetch import WindowSource, prepare_photos, search_windows
from spp_detect.progress import track
from spp_detect.provenance import describe_run

logger = logging.getLogger(__name__)


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
    detector : a loaded model, or several together.
    dataset : photographs whose classes are the detector's.
    source : where windows come from; proposed anew by the detector's method if None.
    regress, vote : as of `PhotoDetector.detect`.
    max_side : largest side of a photograph in pixels.

    Raises
    ------
    DataError
        for a photograph that cannot be read.
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
        for a photograph that cannot be read.
    """
    paths = [photograph.path for photograph in dataset]
    for _, one in track(prepare_photos(paths, source, max_side), "detection", len(paths)):
        if isinstance(one, Exception):
            raise one
        yield one


def collect_truths(dataset: LabelledSet) -> list[Truths]:
    """Turn a set's labels into what the evaluators take."""
    return [Truths(p.labels.boxes, p.labels.classes, p.labels.difficult) for p in dataset]


def measure(detections: list[Detections], dataset: LabelledSet) -> tuple[VocResult, dict[str, Any]]:
    """Evaluate detections by VOC's rules and by COCO's.

    Returns
    -------
    The 11-point result, and the numbers for metrics.json: fractions, NaN for an absent class.
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


def propose_folder(
    folder: Path, split: str, settings: ProposalSettings, out: Path, max_side: int
) -> tuple[Recall | None, int]:
    """Propose windows in every photograph of a folder, or of a labelled split, and save them.

    Where there are labels the recall is written beside the boxes, as .json.

    Returns
    -------
    The recall where there are labels, and how many photographs could not be read.
    """
    dataset = open_dataset(folder, split, max_side=max_side) if is_labelled(folder) else None
    paths = [p.path for p in dataset] if dataset else find_photographs(folder)
    prepared = prepare_photos(paths, search_windows(settings), max_side)
    windows: dict[Path, NDArray[np.float32]] = {}
    start = time.perf_counter()
    for path, one in track(prepared, "proposals", len(paths)):
        if isinstance(one, DataError):
            logger.warning("skipped: %s", one)
        else:
            windows[path] = one[1]
    seconds = round(time.perf_counter() - start, 1)
    root = folder if folder.is_dir() and not dataset else None
    names = [path.relative_to(root).as_posix() if root else path.stem for path in windows]
    save_boxes(out, names, list(windows.values()), settings.method)
    if not dataset:
        return None, len(paths) - len(windows)
    read = [photograph for photograph in dataset if photograph.path in windows]
    truths = [photograph.labels.easy.boxes for photograph in read]
    recall = measure_recall([windows[photograph.path] for photograph in read], truths)
    numbers = {
        "method": settings.key(),
        "split": split,
        "photographs": len(read),
        "recall_50": recall.at_50,
        "recall_70": recall.at_70,
        "average_recall": recall.average,
        "windows": recall.windows,
        "seconds": seconds,
        "record": describe_run(),
    }
    write_json(out.with_suffix(".json"), numbers)
    return recall, len(paths) - len(windows)
