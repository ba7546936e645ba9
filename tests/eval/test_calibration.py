"""What scores mean: against a minimiser of its own, and what it says of counted detections."""

import numpy as np
import pytest
from scipy.optimize import minimize

from eval import Curve, EvalError, ScoreOdds, VocResult, find_log_odds, fit_odds


def make_result(**classes):
    """A result of classes whose detections' scores and hits are given."""
    curves = {}
    for name, (scores, hits) in classes.items():
        order = np.argsort(-scores, kind="stable")
        so_far = np.cumsum(hits[order])
        ranks = np.arange(1, len(scores) + 1)
        curves[name] = Curve(so_far / ranks, so_far / max(1, so_far[-1]), scores[order])
    ap = dict.fromkeys(curves, 0.5)
    return VocResult(tuple(curves), ap, 0.5, curves, "11-point", 0.5)


def draw(count, slope, intercept, seed):
    random = np.random.default_rng(seed)
    scores = random.normal(0, 1, count)
    return scores, random.random(count) < 1 / (1 + np.exp(-(slope * scores + intercept)))


def test_a_curve_knows_its_hits():
    scores, hits = draw(500, 2.0, -1.0, 0)
    curve = make_result(cat=(scores, hits)).curves["cat"]
    assert (curve.hits == hits[np.argsort(-scores, kind="stable")]).all()
    empty = Curve(np.zeros(0), np.zeros(0), np.zeros(0))
    assert empty.hits.dtype == bool and len(empty.hits) == 0


def test_the_line_is_the_likeliest():
    scores, hits = draw(3000, 3.0, -2.0, 1)
    odds = fit_odds(make_result(cat=(scores, hits)))

    def loss(line):
        own = line[0] + line[1] * scores + line[2] * np.maximum(scores - odds.knot, 0)
        return (np.logaddexp(0, own) - hits * own).sum()

    own = minimize(loss, [0.0, 1.0, 0.0], tol=1e-10).x
    np.testing.assert_allclose([odds.intercept, odds.slope, odds.bend], own, atol=5e-3)


@pytest.mark.parametrize("bend", [-4.0, 0.0, 3.0])
def test_what_is_called_as_likely_as_not_is_right_as_often(bend):
    """Of a line that bends, drawn and fitted on a half, and counted on the other."""
    random = np.random.default_rng(2)
    scores = random.normal(-0.5, 1, 200_000)
    log_odds = find_log_odds(scores, ScoreOdds(2.0, 5.0, bend, -0.3))
    hits = random.random(len(scores)) < 1 / (1 + np.exp(-log_odds))
    half = np.arange(len(scores)) % 2 == 0
    odds = fit_odds(make_result(cat=(scores[half], hits[half])))
    likely = 1 / (1 + np.exp(-find_log_odds(scores[~half], odds)))
    for middle in (0.1, 0.3, 0.5, 0.7, 0.9):
        near = np.abs(likely - middle) < 0.05
        assert near.sum() > 300
        assert abs(hits[~half][near].mean() - middle) < 0.06
    grid = find_log_odds(np.linspace(-5, 5, 1001), odds)
    assert (np.diff(grid) > 0).all()


def test_classes_are_fitted_together():
    one, other = draw(2000, 2.0, 0.0, 3), draw(500, 2.0, 0.0, 4)
    both = tuple(np.concatenate(pair) for pair in zip(one, other, strict=True))
    apart, joined = fit_odds(make_result(cat=one, owl=other)), fit_odds(make_result(cat=both))
    np.testing.assert_allclose(apart, joined, rtol=1e-6)


def test_too_few_are_refused_and_what_does_not_rise():
    with pytest.raises(EvalError, match="too few"):
        fit_odds(make_result(cat=draw(20, 1.0, 0.0, 0)))
    with pytest.raises(EvalError, match="no higher"):
        fit_odds(make_result(gnu=draw(2000, -3.0, 0.0, 5)))
