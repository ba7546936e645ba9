"""What was found in a photograph and what is truly there; the checks of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class EvalError(ValueError):
    """Input that cannot be evaluated; the message is one line."""


class Detections(NamedTuple):
    """The detections of one photograph.

    ======== ============ ======= ==================================================
    name     shape        dtype   format
    ======== ============ ======= ==================================================
    boxes    ``(N, 4)``   float32 x1 y1 x2 y2, 0-based, half-open, pixels
    scores   ``(N,)``     float32 any finite number, higher is surer
    labels   ``(N,)``     int64   index into the list of classes
    ======== ============ ======= ==================================================

    A box without area is allowed: it overlaps nothing and so counts as a false positive, as in
    the devkit.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Truths(NamedTuple):
    """The labelled objects of one photograph.

    ========= ============ ======= =================================================
    name      shape        dtype   format
    ========= ============ ======= =================================================
    boxes     ``(G, 4)``   float32 x1 y1 x2 y2, 0-based, half-open, pixels
    labels    ``(G,)``     int64   index into the list of classes
    difficult ``(G,)``     bool    neither required nor punished when found
    ========= ============ ======= =================================================
    """

    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the class names as a tuple; raise EvalError on none, on empty or repeated ones."""
    if isinstance(classes, str):
        raise EvalError(f"classes: got the single string {classes!r}, expected a list of names")
    names = tuple(classes)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise EvalError(f"classes: got {list(names)}, expected one or more non-empty names")
    check_unique(names, "classes")
    return names


def check_unique(names: Sequence[object], what: str) -> None:
    """Raise EvalError where a name is given twice."""
    seen: set[object] = set()
    for name in names:
        if name in seen:
            raise EvalError(f"{what}: {name!r} is given twice, expected each once")
        seen.add(name)


def check_lengths(first: Sequence[object], second: Sequence[object], names: str) -> None:
    """Raise EvalError unless both sequences hold one entry per photograph."""
    if len(first) != len(second):
        raise EvalError(
            f"{names}: got {len(first)} and {len(second)} entries, expected one per photograph"
        )


def join_detections(
    detections: Sequence[Detections], n_classes: int
) -> tuple[Detections, np.ndarray]:
    """Check the detections of all photographs and join them, photograph by photograph.

    Parameters
    ----------
    detections : sequence of Detections
        One per photograph.
    n_classes : int
        Labels must lie in ``[0, n_classes)``.

    Returns
    -------
    Detections
        Float64 boxes ``(M, 4)`` and scores ``(M,)``, int64 labels ``(M,)``.
    numpy.ndarray
        Int64 ``(M,)``, the index of each detection's photograph.

    Raises
    ------
    EvalError
        On wrong shapes, labels out of range or numbers that are not finite.
    """
    columns = []
    for index, found in enumerate(detections):
        where = f"detections of photograph {index}"
        boxes, scores, labels = _columns(found, 3, where)
        _check_shapes(boxes, {"scores": scores, "labels": labels}, where)
        columns.append((boxes, scores, labels))
    photographs = _photograph_indices([len(boxes) for boxes, _, _ in columns])
    joined = Detections(
        _join([boxes for boxes, _, _ in columns], np.float64, (0, 4)),
        _join([scores for _, scores, _ in columns], np.float64, (0,)),
        _join([labels for _, _, labels in columns], np.int64, (0,)),
    )
    _check_all(np.isfinite(joined.boxes).all(axis=1), photographs, "detections", "box not finite")
    _check_all(np.isfinite(joined.scores), photographs, "detections", "score not finite")
    _check_labels(joined.labels, n_classes, photographs, "detections")
    return joined, photographs


def join_truths(truths: Sequence[Truths], n_classes: int) -> tuple[Truths, np.ndarray]:
    """Check the truths of all photographs and join them; as `join_detections`."""
    columns = []
    for index, truth in enumerate(truths):
        where = f"truths of photograph {index}"
        boxes, labels, difficult = _columns(truth, 3, where)
        _check_shapes(boxes, {"labels": labels, "difficult": difficult}, where)
        if difficult.dtype != np.bool_ and difficult.size:
            raise EvalError(f"{where}: difficult has dtype {difficult.dtype}, expected bool")
        columns.append((boxes, labels, difficult))
    photographs = _photograph_indices([len(boxes) for boxes, _, _ in columns])
    joined = Truths(
        _join([boxes for boxes, _, _ in columns], np.float64, (0, 4)),
        _join([labels for _, labels, _ in columns], np.int64, (0,)),
        _join([difficult for _, _, difficult in columns], np.bool_, (0,)),
    )
    boxes = joined.boxes
    _check_all(np.isfinite(boxes).all(axis=1), photographs, "truths", "box not finite")
    upright = np.all(boxes[:, 2:] >= boxes[:, :2], axis=1)
    _check_all(upright, photographs, "truths", "box with x2 < x1 or y2 < y1")
    _check_labels(joined.labels, n_classes, photographs, "truths")
    return joined, photographs


def _columns(value: object, count: int, where: str) -> list[np.ndarray]:
    if not isinstance(value, tuple) or len(value) != count:
        raise EvalError(f"{where}: got {type(value).__name__}, expected a tuple of {count} arrays")
    return [np.asarray(column) for column in value]


def _check_shapes(boxes: np.ndarray, others: dict[str, np.ndarray], where: str) -> None:
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.dtype.kind not in "fiu":
        raise EvalError(
            f"{where}: boxes are {boxes.dtype} of shape {boxes.shape}, expected numbers (N, 4)"
        )
    for name, values in others.items():
        if values.shape != (len(boxes),):
            raise EvalError(
                f"{where}: {name} have shape {values.shape}, expected ({len(boxes)},) as the boxes"
            )
        if values.dtype.kind not in ("iu" if name == "labels" else "fiub") and values.size:
            expected = "integers" if name == "labels" else "numbers"
            raise EvalError(f"{where}: {name} have dtype {values.dtype}, expected {expected}")


def _photograph_indices(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts), dtype=np.int64), counts)


def _join(parts: list[np.ndarray], dtype: type, empty_shape: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros(empty_shape, dtype), *parts]).astype(dtype, copy=False)


def _check_all(good: np.ndarray, photographs: np.ndarray, what: str, fault: str) -> None:
    if not good.all():
        raise EvalError(f"{what} of photograph {photographs[np.argmin(good)]}: {fault}")


def _check_labels(labels: np.ndarray, n_classes: int, photographs: np.ndarray, what: str) -> None:
    good = (labels >= 0) & (labels < n_classes)
    if not good.all():
        first = np.argmin(good)
        raise EvalError(
            f"{what} of photograph {photographs[first]}: label {labels[first]}, "
            f"expected 0 to {n_classes - 1}"
        )
