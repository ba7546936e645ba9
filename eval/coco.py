"""The COCO measures, computed by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from eval.detections import (
    Detections,
    EvalError,
    Truths,
    check_classes,
    check_lengths,
    join_detections,
    join_truths,
)

# The order of COCOeval.stats.
_MEASURES = (
    "AP", "AP50", "AP75", "APs", "APm", "APl",
    "AR1", "AR10", "AR100", "ARs", "ARm", "ARl",
)  # fmt: skip


def evaluate_coco(
    detections: Sequence[Detections],
    truths: Sequence[Truths],
    classes: Sequence[str],
    sizes: Sequence[tuple[int, int]] | None = None,
) -> dict[str, float]:
    """Compute the twelve COCO measures with ``pycocotools.COCOeval``; nothing is printed.

    Difficult truths become ``iscrowd``, the only mark by which COCOeval leaves out a truth (it
    overwrites ``ignore``): they are never missed, and any number of detections may lie on them
    unpunished, as VOC wants. COCO measures that overlap as intersection over the *detection's*
    area, so a small box inside a difficult truth is forgiven too; VOC would punish it. A set
    that came from COCO, its crowds marked difficult, is scored as COCO scores it.

    Small, medium and large go by the area of the box (COCO's own files give that of the
    outline): below 32², to 96², and above.

    Parameters
    ----------
    detections : sequence of Detections
        One per photograph; the best 100 per photograph and class count.
    truths : sequence of Truths
        The same photographs in the same order.
    classes : sequence of str
        The names that the labels index.
    sizes : sequence of (width, height), optional
        Of the photographs, in pixels. COCOeval does not use them.

    Returns
    -------
    dict
        Fractions, 0 to 1: AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl. NaN
        where there is no truth to find (COCOeval's -1).

    Raises
    ------
    EvalError
        On lengths, shapes, labels or numbers that do not fit.

    Examples
    --------
    One of two truths is found, exactly.

    >>> import numpy as np
    >>> from eval import Detections, Truths
    >>> boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]])
    >>> truths = [Truths(boxes, np.array([0, 0]), np.array([False, False]))]
    >>> found = Detections(boxes[:1], [0.9], [0])
    >>> measures = evaluate_coco([found], truths, ["cat"])
    >>> round(measures["AP"], 3), measures["AR100"]
    (0.505, 0.5)
    """
    names = check_classes(classes)
    check_lengths(detections, truths, "detections and truths")
    if sizes is not None:
        check_lengths(detections, sizes, "detections and sizes")
    found, found_in = join_detections(detections, len(names))
    real, real_in = join_truths(truths, len(names))
    truth_entries = _annotate(real.boxes, real.labels, real_in)
    for entry, difficult in zip(truth_entries, real.difficult.tolist(), strict=True):
        entry["iscrowd"] = int(difficult)
    found_entries = _annotate(found.boxes, found.labels, found_in)
    for entry, score in zip(found_entries, found.scores.tolist(), strict=True):
        entry["score"] = score
    images = [{"id": index + 1} for index in range(len(truths))]
    if sizes is not None:
        for image, size in zip(images, sizes, strict=True):
            image["width"], image["height"] = _check_size(size)
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _index(images, categories, truth_entries),
            _index(images, categories, found_entries),
            "bbox",
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {
        name: float(value) if value >= 0 else float("nan")
        for name, value in zip(_MEASURES, evaluation.stats, strict=True)
    }


def _annotate(boxes: np.ndarray, labels: np.ndarray, photographs: np.ndarray) -> list[Any]:
    """Return COCO annotations; every id starts at 1, as COCOeval takes a truth 0 for no match."""
    sides = boxes[:, 2:] - boxes[:, :2]
    corners_and_sides = np.hstack([boxes[:, :2], sides]).tolist()
    areas = sides.clip(min=0).prod(axis=1).tolist()
    return [
        {
            "id": index + 1,
            "image_id": photograph + 1,
            "category_id": label + 1,
            "bbox": box,
            "area": area,
            "iscrowd": 0,
        }
        for index, (photograph, label, box, area) in enumerate(
            zip(photographs.tolist(), labels.tolist(), corners_and_sides, areas, strict=True)
        )
    ]


def _check_size(size: tuple[int, int]) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in size)
    except (TypeError, ValueError):
        raise EvalError(f"sizes: got {size!r}, expected (width, height)") from None
    return width, height


def _index(images: list[Any], categories: list[Any], annotations: list[Any]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": images, "categories": categories, "annotations": annotations}
    coco.createIndex()
    return coco
