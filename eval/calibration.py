"""What a detection's score is worth: how likely it is that one of that score is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from eval.detections import EvalError
from eval.voc import VocResult

# Of right and of wrong detections that a class needs for a curve of its own.
FEWEST = 20


class Platt(NamedTuple):
    """Probability = 1 / (1 + exp(-(slope · score + intercept))), a pair of each class.

    Attributes
    ----------
    slope : numpy.ndarray
        Float64 ``(C,)``, above 0.
    intercept : numpy.ndarray
        Float64 ``(C,)``.
    """

    slope: np.ndarray
    intercept: np.ndarray


def fit_platt(result: VocResult) -> Platt:
    """Fit Platt's logistic curve to each class's detections: right or wrong, by their scores.

    A class with few of either kind gets the curve of all classes together. Which detections are
    right is VOC's rule; those on difficult truths do not count. (Platt, Probabilistic outputs for
    support vector machines, 1999, with his smoothed targets.)

    Parameters
    ----------
    result : VocResult
        Of photographs that the detector was not trained on.

    Returns
    -------
    Platt
        In the order of ``result.classes``.

    Raises
    ------
    EvalError
        Where all classes together have too few right or wrong detections.

    Examples
    --------
    Of each class's detections a third is right at score 0 and two thirds at score 1.

    >>> import numpy as np
    >>> from eval import Detections, Truths, evaluate_voc
    >>> right, wrong = [[0, 0, 9, 9]], [[50, 50, 60, 60]]
    >>> def photograph(box, score):
    ...     found = Detections(np.array(box, float), np.array([score]), np.array([0]))
    ...     return found, Truths(np.array(right, float), np.array([0]), np.array([False]))
    >>> seen = [photograph(box, score) for score in (0.0, 1.0) for box in (right, wrong)
    ...         for _ in range(200 if (box is right) == (score == 1) else 100)]
    >>> platt = fit_platt(evaluate_voc(*zip(*seen), ["cat"]))
    >>> (1 / (1 + np.exp(-(platt.slope * [0, 1] + platt.intercept)))).round(2)
    array([0.33, 0.67])
    """
    curves = [result.curves[name] for name in result.classes]
    every = _fit(
        np.concatenate([curve.scores for curve in curves]),
        np.concatenate([curve.hits for curve in curves]),
    )
    if every is None:
        raise EvalError(f"too few detections to calibrate: expected {FEWEST} right and wrong ones")
    fitted = [_fit(curve.scores, curve.hits) or every for curve in curves]
    slopes, intercepts = zip(*fitted, strict=True)
    return Platt(np.array(slopes), np.array(intercepts))


def _fit(scores: np.ndarray, hits: np.ndarray) -> tuple[float, float] | None:
    """Fit one curve: slope and intercept; None for too few, and where it would fall."""
    right, wrong = int(hits.sum()), int((~hits).sum())
    if min(right, wrong) < FEWEST:
        return None
    # Platt's targets, 1 and 0 but for one imagined example of the other kind, as weights.
    target = np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2))
    twice = np.concatenate([scores, scores])[:, None]
    labels = np.repeat([1, 0], len(scores))
    weights = np.concatenate([target, 1 - target])
    fitted = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(
        twice, labels, sample_weight=weights
    )
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (slope, intercept) if slope > 0 else None
