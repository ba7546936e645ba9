"""What a detection's score is worth: how likely it is that one of that score is right."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from eval.detections import EvalError
from eval.voc import VocResult

FEWEST = 20  # of right and of wrong detections, for anything to be said of them
KNOTS = np.arange(0.05, 0.71, 0.05)  # tried where so large a share of right detections lies below


class ScoreOdds(NamedTuple):
    """The logarithm of the odds that a detection is right, a line in its score with one bend.

    Log-odds = intercept + slope · score + bend · max(score - knot, 0); they rise with the score.

    Attributes
    ----------
    intercept, slope, bend, knot : float
        Of the line.
    """

    intercept: float
    slope: float
    bend: float
    knot: float


def fit_odds(result: VocResult) -> ScoreOdds:
    """Fit what scores mean to detections of which VOC's rule says whether they are right.

    Platt's logistic curve (1999), with a bend where the likelihood is best: far below, scores of
    SVMs say more than above. All classes have one curve. Of their own, as of 200 photographs,
    they were further from what was counted on others.

    Parameters
    ----------
    result : VocResult
        Of photographs that the detector was not trained on.

    Returns
    -------
    ScoreOdds
        For all classes.

    Raises
    ------
    EvalError
        Where there are too few right or wrong detections, or the right ones score no higher.

    Examples
    --------
    Of 300 detections each, a third is right at score 0 and two thirds at score 1.

    >>> import numpy as np
    >>> from eval import Detections, Truths, evaluate_voc
    >>> right, wrong = [[0, 0, 9, 9]], [[50, 50, 60, 60]]
    >>> def photograph(box, score):
    ...     found = Detections(np.array(box, float), np.array([score]), np.array([0]))
    ...     return found, Truths(np.array(right, float), np.array([0]), np.array([False]))
    >>> seen = [photograph(box, score) for score in (0.0, 1.0) for box in (right, wrong)
    ...         for _ in range(200 if (box is right) == (score == 1) else 100)]
    >>> odds = fit_odds(evaluate_voc(*zip(*seen), ["cat"]))
    >>> find_log_odds(np.array([0.0, 1.0]), odds).round(2)
    array([-0.69,  0.69])
    """
    curves = [result.curves[name] for name in result.classes]
    scores = np.concatenate([curve.scores for curve in curves])
    hits = np.concatenate([curve.hits for curve in curves])
    if min(hits.sum(), (~hits).sum()) < FEWEST:
        raise EvalError(f"too few detections to calibrate: expected {FEWEST} right and wrong ones")
    fits = [_fit(scores, hits, knot) for knot in np.unique(np.quantile(scores[hits], KNOTS))]
    rising = [(loss, odds) for loss, odds in fits if min(odds.slope, odds.slope + odds.bend) > 0]
    if not rising:
        raise EvalError("right detections score no higher than wrong ones: nothing to calibrate")
    return min(rising)[1]


def find_log_odds(scores: np.ndarray, odds: ScoreOdds) -> np.ndarray:
    """Turn scores, any shape, into the logarithms of odds."""
    above = np.maximum(scores - odds.knot, 0)
    log_odds: np.ndarray = odds.intercept + odds.slope * scores + odds.bend * above
    return log_odds


def _fit(scores: np.ndarray, hits: np.ndarray, knot: float) -> tuple[float, ScoreOdds]:
    """Fit the line with a bend at a knot: its mean negative log-likelihood, and it."""
    # Not before it is needed: it takes as long to import as torch, and to detect does without.
    from sklearn.linear_model import LogisticRegression

    features = np.stack([scores, np.maximum(scores - knot, 0)], axis=1)
    fitted = LogisticRegression(C=1e6, tol=1e-8, max_iter=1000).fit(features, hits)
    slope, bend = fitted.coef_[0].tolist()
    odds = ScoreOdds(float(fitted.intercept_[0]), slope, bend, float(knot))
    log_odds = find_log_odds(scores, odds)
    return float(np.mean(np.logaddexp(0, log_odds) - hits * log_odds)), odds
