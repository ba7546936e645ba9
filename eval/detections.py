"""What was found in a photograph and what is truly there; the checks of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike


class EvalError(ValueError):
    """Input that cannot be evaluated; the message is one line."""


class Detection(NamedTuple):
    """One detection: what a row of `Detections` holds.

    Attributes
    ----------
    box : numpy.ndarray
        Shape ``(4,)``, x1 y1 x2 y2, 0-based, half-open, pixels.
    score : float
        Higher is surer.
    label : int
        Index into the list of classes.

    Examples
    --------
    >>> import numpy as np
    >>> box, score, label = Detection(np.array([2.0, 3.0, 9.0, 9.0]), 0.5, 0)
    >>> score
    0.5
    """

    box: np.ndarray
    score: float
    label: int


@dataclass(frozen=True, eq=False)
class Detections:
    """The detections of one photograph.

    They count and index as an array of N rows does: a slice, a boolean mask or an array of
    integers gives Detections, one integer a `Detection`; iteration yields each Detection in turn.

    A box without area is allowed: it overlaps nothing and so counts as a false positive, as in
    the devkit.

    Parameters
    ----------
    boxes : numpy.ndarray
        Float32 or float64 ``(N, 4)``, x1 y1 x2 y2, 0-based, half-open, pixels.
    scores : numpy.ndarray
        Float32 or float64 ``(N,)``, any finite numbers, higher is surer.
    labels : numpy.ndarray
        Int64 ``(N,)``, indices into the list of classes.

    Raises
    ------
    EvalError
        On arrays of other shapes, or labels that are not integers.

    Examples
    --------
    >>> import numpy as np
    >>> found = Detections(
    ...     boxes=np.array([[10, 20, 60, 80], [15, 20, 70, 80], [0, 0, 40, 30]], np.float32),
    ...     scores=np.array([0.75, 0.5, -0.25]),
    ...     labels=np.array([1, 0, 1]),
    ... )
    >>> len(found)
    3
    >>> found[found.scores > 0].labels
    array([1, 0])
    >>> for box, score, label in found[:2]:
    ...     print(label, score, box.tolist())
    1 0.75 [10.0, 20.0, 60.0, 80.0]
    0 0.5 [15.0, 20.0, 70.0, 80.0]
    >>> found[-1].score
    -0.25
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        columns = {name: np.asarray(values) for name, values in vars(self).items()}
        _check_columns(columns, "detections")
        for name, values in columns.items():
            object.__setattr__(self, name, values)

    def __len__(self) -> int:
        return len(self.boxes)

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> Detection: ...

    @overload
    def __getitem__(self, rows: slice | ArrayLike) -> Detections: ...

    def __getitem__(self, rows: Any) -> Detection | Detections:
        box, score, label = self.boxes[rows], self.scores[rows], self.labels[rows]
        if np.ndim(score) == 0:
            return Detection(box, float(score), int(label))
        return Detections(box, score, label)

    def __iter__(self) -> Iterator[Detection]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Detections):
            return NotImplemented
        return all(np.array_equal(values, vars(other)[name]) for name, values in vars(self).items())


class Truths(NamedTuple):
    """The labelled objects of one photograph.

    Attributes
    ----------
    boxes : numpy.ndarray
        Float32 or float64 ``(G, 4)``, x1 y1 x2 y2, 0-based, half-open, pixels.
    labels : numpy.ndarray
        Int64 ``(G,)``, indices into the list of classes.
    difficult : numpy.ndarray
        Bool ``(G,)``, neither required nor punished when found.

    Examples
    --------
    >>> import numpy as np
    >>> truth = Truths(np.array([[10, 20, 60, 80]]), np.array([1]), np.array([False]))
    >>> truth.boxes.shape
    (1, 4)
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
    for index, found in enumerate(detections):
        if not isinstance(found, Detections):
            raise EvalError(
                f"detections of photograph {index}: got {type(found).__name__}, expected Detections"
            )
    photographs = _photograph_indices([len(found) for found in detections])
    joined = Detections(
        _join([found.boxes for found in detections], np.float64, (0, 4)),
        _join([found.scores for found in detections], np.float64, (0,)),
        _join([found.labels for found in detections], np.int64, (0,)),
    )
    _check_all(np.isfinite(joined.boxes).all(axis=1), photographs, "detections", "box not finite")
    _check_all(np.isfinite(joined.scores), photographs, "detections", "score not finite")
    _check_labels(joined.labels, n_classes, photographs, "detections")
    return joined, photographs


def join_truths(truths: Sequence[Truths], n_classes: int) -> tuple[Truths, np.ndarray]:
    """Check the truths of all photographs and join them, photograph by photograph.

    Parameters
    ----------
    truths : sequence of Truths
        One per photograph.
    n_classes : int
        Labels must lie in ``[0, n_classes)``.

    Returns
    -------
    Truths
        Float64 boxes ``(M, 4)``, int64 labels ``(M,)``, bool difficult ``(M,)``.
    numpy.ndarray
        Int64 ``(M,)``, the index of each truth's photograph.

    Raises
    ------
    EvalError
        On wrong shapes, labels out of range, numbers that are not finite or inverted boxes.
    """
    columns = []
    for index, truth in enumerate(truths):
        where = f"truths of photograph {index}"
        if not isinstance(truth, tuple) or len(truth) != 3:
            raise EvalError(f"{where}: got {type(truth).__name__}, expected Truths")
        boxes, labels, difficult = (np.asarray(column) for column in truth)
        _check_columns({"boxes": boxes, "labels": labels, "difficult": difficult}, where)
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


def _check_columns(columns: dict[str, np.ndarray], where: str) -> None:
    """Raise EvalError unless there are N boxes and N values in each other column."""
    others = dict(columns)
    boxes = others.pop("boxes")
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
