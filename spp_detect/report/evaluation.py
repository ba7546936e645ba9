"""The page of an evaluation: what was found, what was taken for what, and the worst of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError, LabelledSet, read_photo
from eval import (
    KINDS,
    Detections,
    ErrorAnalysis,
    ToldDetections,
    Truths,
    VocResult,
    count_confusions,
)
from spp_detect.files import write_text
from spp_detect.report.drawing import draw_detections, save_image
from spp_detect.report.page import Figure, Section, Table, render_page

PAGE, PICTURES = "index.html", "pictures"
EACH = 12  # pictures of a kind
SIDE = 480  # pixels of a picture
HEADINGS = {
    "correct": "Surest right detections",
    "localisation": "Surest errors: boxes that lie badly",
    "similar": "Surest errors: similar classes",
    "other": "Surest errors: other classes",
    "background": "Surest errors: background",
    "missed": "Largest missed objects",
}


class Shown(NamedTuple):
    """A box to show: of which photograph, its class, its score; none for a missed object."""

    photograph: int
    box: NDArray[np.floating]
    label: int
    score: float


def write_evaluation_page(
    out: Path,
    dataset: LabelledSet,
    found: Sequence[Detections],
    truths: Sequence[Truths],
    told: ToldDetections,
    measured: tuple[VocResult, dict[str, Any], ErrorAnalysis],
    title: str,
) -> Path:
    """Write the page and its pictures.

    Parameters
    ----------
    out : Path
        Has precision_recall.png and errors.png; gets index.html and pictures/.
    dataset : LabelledSet
        The photographs.
    found, truths : sequence
        Of each photograph.
    told : ToldDetections
        The kind of each detection.
    measured : tuple
        The result, the numbers of metrics.json and the errors.
    title : str
        What was evaluated on what.

    Returns
    -------
    Path
        The page.
    """
    result, numbers, errors = measured
    least = numbers["best_score"]["score"]
    sections: list[Section] = [
        (
            f"Average precision, {result.metric} rule, IoU ≥ {result.iou}",
            tabulate_ap(result, errors),
        ),
        ("Precision and recall", [Figure("precision_recall.png", "precision and recall", "")]),
        ("Kinds of error, and what is found by size", [Figure("errors.png", "errors", "")]),
        (
            f"What is taken for what, above a score of {least:.2f}",
            tabulate_confusions(found, truths, dataset.classes, least),
        ),
    ]
    for kind, shown in choose_boxes(found, truths, told).items():
        figures = list(_draw(out, kind, shown, dataset))
        if figures:
            sections.append((HEADINGS[kind], figures))
    facts = {
        "mAP": f"{100 * result.mean_ap:.1f}",
        "AP75": f"{100 * numbers['coco']['AP75']:.1f}",
        "COCO AP": f"{100 * numbers['coco']['AP']:.1f}",
        "photographs": str(len(dataset)),
    }
    write_text(out / PAGE, render_page(title, facts, sections))
    return out / PAGE


def tabulate_ap(result: VocResult, errors: ErrorAnalysis) -> Table:
    """Make the table of the classes: AP, boxes, found, kinds of the best detections."""
    heading = ("class", "AP %", "boxes", "found %", *(f"{kind} %" for kind in KINDS))
    rows = []
    for name in result.classes:
        shares = [_percent(errors.shares[name][kind]) for kind in KINDS]
        own = _percent(result.ap[name]), str(errors.boxes[name])
        rows.append((name, *own, _percent(errors.found[name]["all"]), *shares))
    return Table(heading, rows)


def tabulate_confusions(
    found: Sequence[Detections], truths: Sequence[Truths], classes: Sequence[str], least: float
) -> Table:
    """Make the table of what each class's boxes were taken for by detections of a least score."""
    kept = [one[one.scores >= least] for one in found]
    counts = count_confusions(kept, truths, len(classes))
    names = [*classes, "background"]
    heading = ("true class", *classes, "missed")
    rows = [(name, *(str(n or "") for n in row)) for name, row in zip(names, counts, strict=True)]
    return Table(heading, rows)


def choose_boxes(
    found: Sequence[Detections], truths: Sequence[Truths], told: ToldDetections
) -> dict[str, list[Shown]]:
    """Choose the surest detections of each kind, and the largest boxes that were missed."""
    photographs = np.repeat(np.arange(len(found)), [len(one) for one in found])
    rows = np.concatenate([np.arange(len(one)) for one in found])
    scores = np.concatenate([one.scores for one in found])
    kinds = np.concatenate(told.kinds)
    chosen = {}
    for kind, name in enumerate(KINDS):
        own = np.flatnonzero(kinds == kind)
        best = own[np.argsort(-scores[own], kind="stable")[:EACH]]
        pairs = zip(photographs[best].tolist(), rows[best].tolist(), strict=True)
        chosen[name] = [Shown(i, *_pick(found[i], row)) for i, row in pairs]
    missed = [
        Shown(i, truth.boxes[row], int(truth.labels[row]), math.nan)
        for i, truth in enumerate(truths)
        for row in np.flatnonzero(~told.found[i] & ~truth.difficult)
    ]
    missed.sort(key=lambda shown: -float(np.prod(shown.box[2:] - shown.box[:2])))
    return chosen | {"missed": missed[:EACH]}


def _pick(found: Detections, row: int) -> tuple[NDArray[np.floating], int, float]:
    one = found[row]
    return one.box, one.label, one.score


def _draw(out: Path, kind: str, shown: Sequence[Shown], dataset: LabelledSet) -> Iterator[Figure]:
    """Draw boxes, each on its photograph."""
    for i, one in enumerate(shown):
        photograph = dataset.photographs[one.photograph]
        try:
            photo = read_photo(photograph.path, max(photograph.width, photograph.height))
        except DataError:  # gone since it was detected in
            continue
        score = 0.0 if math.isnan(one.score) else one.score
        alone = Detections(one.box[None], np.array([score]), np.array([one.label]))
        image: Image.Image = draw_detections(photo, alone, dataset.classes)
        image.thumbnail((SIDE, SIDE))
        address = f"{PICTURES}/{kind}-{i:02d}.jpg"
        save_image(image, out / address)
        name = dataset.classes[one.label]
        words = name if math.isnan(one.score) else f"{name} {one.score:.2f}"
        yield Figure(quote(address), photograph.name, words)


def _percent(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"
