"""Platt's curve: against a minimiser of its own, and what it says of counted detections."""

import numpy as np
import pytest
from scipy.optimize import minimize

from eval import Curve, EvalError, VocResult, fit_platt


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


def test_the_curve_is_the_likeliest():
    scores, hits = draw(3000, 3.0, -2.0, 1)
    platt = fit_platt(make_result(cat=(scores, hits)))
    right, wrong = hits.sum(), (~hits).sum()
    target = np.where(hits, (right + 1) / (right + 2), 1 / (wrong + 2))

    def loss(line):
        odds = line[0] * scores + line[1]
        return (np.logaddexp(0, odds) - target * odds).sum()

    own = minimize(loss, [1.0, 0.0], tol=1e-10).x
    np.testing.assert_allclose([platt.slope[0], platt.intercept[0]], own, atol=2e-3)
    assert abs(platt.slope[0] - 3) < 0.4 and abs(platt.intercept[0] + 2) < 0.3


def test_half_of_what_is_called_as_likely_as_not_is_right():
    scores, hits = draw(20_000, 2.5, -1.0, 2)
    platt = fit_platt(make_result(cat=(scores, hits)))
    likely = 1 / (1 + np.exp(-(platt.slope[0] * scores + platt.intercept[0])))
    for middle in (0.2, 0.5, 0.8):
        near = np.abs(likely - middle) < 0.05
        assert abs(hits[near].mean() - middle) < 0.05


def test_a_rare_or_odd_class_gets_the_curve_of_all():
    common = draw(2000, 2.0, 0.0, 3)
    rare = draw(30, 9.0, 3.0, 4)
    falling = draw(200, -3.0, 0.0, 5)
    platt = fit_platt(make_result(cat=common, owl=rare, gnu=falling))
    assert platt.slope[1] == platt.slope[2] != platt.slope[0]
    assert platt.intercept[1] == platt.intercept[2]
    assert (platt.slope > 0).all()


def test_too_few_are_refused():
    with pytest.raises(EvalError, match="too few"):
        fit_platt(make_result(cat=draw(20, 1.0, 0.0, 0)))
