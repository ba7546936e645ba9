"""How many objects the windows cover (Hosang et al., PAMI 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torchvision.ops import box_iou

from proposals.settings import ProposalError


@dataclass(frozen=True, eq=False)
class Recall:
    """Recall of windows over objects; NaN where there are no objects.

    Parameters
    ----------
    thresholds : float64 (T,)
        The intersection over union that counts as covered.
    recalls : float64 (T,)
        Fraction of objects covered, per threshold.
    at_50, at_70 : float
        Recall at 0.5 and 0.7.
    average : float
        Average recall: twice the integral of recall over thresholds from 0.5 to 1.
    windows : float
        Mean number of windows a photograph.
    objects : int
        Number of objects.
    """

    thresholds: NDArray[np.float64]
    recalls: NDArray[np.float64]
    at_50: float
    at_70: float
    average: float
    windows: float
    objects: int


def measure_recall(
    boxes: Sequence[ArrayLike],
    truths: Sequence[ArrayLike],
    thresholds: ArrayLike = (0.5, 0.6, 0.7, 0.8, 0.9),
) -> Recall:
    """Measure the recall of windows.

    An object is covered at a threshold if some window of its photograph reaches it; a window may
    cover several objects. The integral of the average recall is exact, not a sum over steps: the
    recall falls by 1/n at each object's best overlap, so it is the mean of max(overlap - 0.5, 0),
    twice.

    Parameters
    ----------
    boxes : sequence of (N, 4)
        The windows of each photograph, x1 y1 x2 y2, half-open.
    truths : sequence of (G, 4)
        The objects of each photograph; none in some is fine.
    thresholds : (T,)
        Each above 0 and at most 1.

    Returns
    -------
    Recall
        Fractions, 0 to 1.

    Raises
    ------
    ProposalError
        On unequal counts, bad shapes, boxes that are not finite or thresholds out of range.

    Examples
    --------
    Two objects, one found exactly, the other covered by a window twice as large.

    >>> windows = [[0, 0, 10, 10], [20, 0, 40, 10]]
    >>> recall = measure_recall([windows], [[[0, 0, 10, 10], [20, 0, 30, 10]]])
    >>> recall.at_50, recall.at_70, recall.average
    (1.0, 0.5, 0.5)
    """
    levels = np.asarray(thresholds, np.float64)
    if levels.ndim != 1 or not ((levels > 0) & (levels <= 1)).all():
        raise ProposalError(f"thresholds are {thresholds!r}, expected numbers above 0, at most 1")
    if len(boxes) != len(truths):
        raise ProposalError(
            f"windows of {len(boxes)} photographs and objects of {len(truths)}, expected as many"
        )
    found = [_check_boxes("windows", place, rows) for place, rows in enumerate(boxes)]
    wanted = [_check_boxes("objects", place, rows) for place, rows in enumerate(truths)]
    pairs = zip(wanted, found, strict=True)
    best = np.concatenate([np.zeros(0), *(_find_best(truth, rows) for truth, rows in pairs)])
    recalls = _count(best, levels)
    at_50, at_70 = _count(best, np.array([0.5, 0.7]))
    return Recall(
        thresholds=levels,
        recalls=recalls,
        at_50=float(at_50),
        at_70=float(at_70),
        average=float(2 * np.maximum(best - 0.5, 0).mean()) if len(best) else float("nan"),
        windows=float(np.mean([len(rows) for rows in found])) if found else float("nan"),
        objects=len(best),
    )


def _find_best(truth: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(boxes):
        return np.zeros(len(truth))
    overlap = box_iou(torch.from_numpy(truth), torch.from_numpy(boxes)).numpy()
    return np.asarray(overlap.max(axis=1))


def _count(best: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(best):
        return np.full(len(levels), np.nan)
    return np.asarray((best[:, None] >= levels).mean(axis=0))


def _check_boxes(what: str, place: int, rows: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(rows, np.float64)
    if values.size == 0:
        return np.zeros((0, 4))
    if values.ndim != 2 or values.shape[1] != 4 or not np.isfinite(values).all():
        raise ProposalError(
            f"{what} of photograph {place} are {values.shape}, expected finite numbers (N, 4)"
        )
    if (values[:, 2:] <= values[:, :2]).any():
        raise ProposalError(f"{what} of photograph {place} are not all x2 > x1 and y2 > y1")
    return values
