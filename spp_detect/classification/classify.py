"""What images show, and how often that is right (paper, section 3.1)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from data import DataError
from spp_detect.classification.images import Images, Piece
from spp_detect.classification.views import Viewer, average
from spp_detect.report.names import make_readable

logger = logging.getLogger(__name__)

VIEWS_AT_ONCE = 32  # at least, that the fc layers see
BEST = 5  # of the classes; the right one is among them or the image is a top-5 error


def classify(
    viewer: Viewer, images: Images, views: str, max_side: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Score images; what cannot be read is named in a warning and left out.

    Yields
    ------
    tuple of int and float64 (C,)
        The image's number and the classes' probabilities.
    """
    numbers: list[int] = []
    pooled: list[torch.Tensor] = []
    for i, image in _leave_out(images, max_side):
        numbers.append(i)
        pooled.append(viewer.pool(image, views))
        if sum(map(len, pooled)) >= VIEWS_AT_ONCE:
            yield from zip(numbers, average(viewer.score(pooled)), strict=True)
            numbers, pooled = [], []
    if pooled:
        yield from zip(numbers, average(viewer.score(pooled)), strict=True)


def _leave_out(images: Images, max_side: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Images that can be read, and their numbers."""
    blamed: set[Path] = set()
    for i, (piece, image) in enumerate(zip(images.pieces, images.read(max_side), strict=True)):
        if not isinstance(image, DataError):
            yield i, image
        elif piece.path not in blamed:
            blamed.add(piece.path)
            logger.warning("%s; left out", image)


def describe_image(
    piece: Piece, probabilities: NDArray[np.float64], classes: tuple[str, ...], count: int = BEST
) -> dict[str, Any]:
    """Tell the likeliest classes of an image, for json."""
    best = np.argsort(-probabilities, kind="stable")[:count].tolist()
    told: dict[str, Any] = {"file": make_readable(str(piece.path))}
    if piece.box is not None:
        told["box"] = list(piece.box)
    told["classes"] = [
        {"class": classes[i], "probability": round(float(probabilities[i]), 6)} for i in best
    ]
    return told


def measure_errors(
    scored: Iterable[tuple[int, NDArray[np.float64]]], images: Images
) -> dict[str, Any]:
    """Measure top-1 and top-5 errors.

    Parameters
    ----------
    scored : iterable of (int, float64 (C,))
        As `classify` gives them.
    images : Images
        With their true classes.

    Returns
    -------
    dict
        `top1_error`, `top5_error`, fractions; `error` of each class, NaN for one without images;
        `images`, how many were scored.
    """
    count = np.zeros((len(images.classes), 2))
    missed = {1: 0, BEST: 0}
    for i, probabilities in scored:
        truth = images.labels[i]
        order = np.argsort(-probabilities, kind="stable")
        for most in missed:
            missed[most] += truth not in order[:most]
        count[truth] += [order[0] != truth, 1]
    total = int(count[:, 1].sum())
    with np.errstate(invalid="ignore"):
        errors = count[:, 0] / count[:, 1]
    return {
        "top1_error": missed[1] / total if total else float("nan"),
        "top5_error": missed[BEST] / total if total else float("nan"),
        "error": dict(zip(images.classes, errors.tolist(), strict=True)),
        "images": total,
    }
