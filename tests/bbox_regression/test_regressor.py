from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge

from bbox_regression import BoxRegressor, RegressionError, decode, encode


def problem(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features like pooled maps (non-negative, norm near 20) that tell the targets, with noise."""
    rng = np.random.default_rng(seed)
    features = np.maximum(rng.normal(0.3, 1, (n, d)), 0)
    features *= 20 / max(np.linalg.norm(features, axis=1).mean(), 1e-9)
    corner = rng.random((n, 2)) * 300
    windows = np.hstack([corner, corner + 20 + rng.random((n, 2)) * 200]).astype(np.float32)
    targets = features @ rng.normal(0, 0.03, (d, 4)) + rng.normal(0.1, 0.05, (n, 4))
    return features.astype(np.float32), windows, decode(windows, targets)


def whiten(targets: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = targets.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(targets.T, bias=True))
    transform = vectors @ np.diag((values + epsilon) ** -0.5) @ vectors.T
    return (targets - mean) @ transform, mean, transform


def solve_normal_equations(features, windows, truths, regularization=1000.0, epsilon=0.001):
    """The release's steps, one by one, in float64 and with a general solver."""
    whitened, mean, transform = whiten(encode(windows, truths), epsilon)
    x = np.hstack([features.astype(np.float64), np.ones((len(features), 1))])
    beta = np.linalg.solve(x.T @ x + regularization * np.eye(x.shape[1]), x.T @ whitened)
    beta = beta @ np.linalg.inv(transform)
    return beta[:-1], beta[-1] + mean


def assert_close(regressor: BoxRegressor, expected, rtol: float = 1e-6) -> None:
    coef, intercept = expected
    assert regressor.coef_.dtype == regressor.intercept_.dtype == np.float32
    # rtol of the largest coefficient: those near zero have no digits of their own.
    np.testing.assert_allclose(
        regressor.coef_, coef, rtol=0, atol=rtol * np.abs(coef).max() + 1e-12
    )
    np.testing.assert_allclose(regressor.intercept_, intercept, rtol=rtol, atol=1e-7)


# Fewer rows than columns (dual), as many, one more (the Gram matrix), many more; the last is
# more than one block of 1,024.
@pytest.mark.parametrize(("n", "d"), [(2, 3), (4, 50), (60, 300), (80, 80), (81, 80), (2500, 90)])
@pytest.mark.parametrize("regularization", [10.0, 1000.0])
def test_equals_the_normal_equations(n, d, regularization):
    rows = problem(n, d)
    regressor = BoxRegressor(regularization)
    assert regressor.fit(*rows) is regressor
    assert_close(regressor, solve_normal_equations(*rows, regularization))
    assert regressor.n_features_in_ == d


def test_dual_with_more_columns_than_a_block():
    rows = problem(30, 2100)
    assert_close(BoxRegressor(100.0).fit(*rows), solve_normal_equations(*rows, 100.0))


def test_equals_scikit_learns_ridge():
    features, windows, truths = problem(150, 40)
    whitened, mean, transform = whiten(encode(windows, truths), 0.001)
    columns = np.hstack([features.astype(np.float64), np.ones((150, 1))])
    ridge = Ridge(alpha=1000.0, fit_intercept=False, solver="svd").fit(columns, whitened)
    regressor = BoxRegressor().fit(features, windows, truths)
    expected = ridge.predict(columns) @ np.linalg.inv(transform) + mean
    np.testing.assert_allclose(regressor.predict(features), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("n", [35, 90, 1200, 3000])
@pytest.mark.parametrize("step", [1, 7, 64, 1500])
def test_rows_may_come_in_any_portions(n, step):
    # d = 60. At n = 35 nothing is folded; at 90 once, and 29 rows are left waiting where they
    # come singly; from 1,200 on also when 1,024 have gathered, in the middle of the stream.
    features, windows, truths = rows = problem(n, 60, seed=n)
    regressor = BoxRegressor(50.0)
    for start in range(0, n, step):
        part = slice(start, start + step)
        assert regressor.partial_fit(features[part], windows[part], truths[part]) is regressor
    assert regressor.solve() is regressor
    assert_close(regressor, solve_normal_equations(*rows, 50.0))


def test_given_arrays_may_be_reused():
    features, windows, truths = rows = problem(40, 60)
    buffers = [np.empty_like(values[:10]) for values in rows]
    regressor = BoxRegressor()
    for start in range(0, 40, 10):
        for buffer, values in zip(buffers, rows, strict=True):
            buffer[:] = values[start : start + 10]
        regressor.partial_fit(*buffers)
        buffers[0][:] = -1e6
    assert_close(regressor.solve(), solve_normal_equations(features, windows, truths))


def test_memory_is_bounded():
    # Many more rows than columns: what is held stays within the bound of the docstring.
    features, windows, truths = problem(500, 100)
    regressor = BoxRegressor()
    for _ in range(20):
        regressor.partial_fit(features, windows, truths)
        sums = regressor._sums
        held = sum(rows.nbytes for rows in sums._rows)
        held += 0 if sums._gram is None else sums._gram.nbytes
        assert held <= 8 * 101**2 + 4096 * 100
    assert sums._gram is not None
    assert sums.count == 10_000
    regressor.solve()
    assert regressor._sums is None


def test_one_row():
    # One row: centred targets are zero, so the prediction is that row's target everywhere.
    features, windows, truths = problem(1, 30)
    regressor = BoxRegressor().fit(features, windows, truths)
    np.testing.assert_array_equal(regressor.coef_, np.zeros((30, 4)))
    np.testing.assert_allclose(regressor.intercept_, encode(windows, truths)[0], rtol=1e-6)


@pytest.mark.parametrize("n", [6, 40])
def test_degenerate_covariance(n):
    # Truths equal to the windows but for a common shift: three targets are constant, and the
    # covariance has rank 1.
    features, windows, _ = problem(n, 20)
    truths = windows.copy()
    truths[:, [0, 2]] += np.linspace(-4, 4, n, dtype=np.float32)[:, None]
    regressor = BoxRegressor().fit(features, windows, truths)
    assert_close(regressor, solve_normal_equations(features, windows, truths))
    np.testing.assert_allclose(regressor.predict(features)[:, 1:], 0, atol=1e-6)


def test_hand_worked_ridge():
    # One feature, x = 1 and 3, λ = 2; two windows 10 x 10 with truths moved right by 1 and 3
    # pixels: targets .1 and .3, mean .2, centred -.1 and .1.
    # X'X + λI = [[1 + 9 + 2, 4], [4, 2 + 2]], X'y = [-.1 + .3, 0] = [.2, 0];
    # determinant 12 · 4 - 16 = 32: coefficient .2 · 4 / 32 = .025, bias -.2 · 4 / 32 = -.025.
    windows = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], dtype=np.float32)
    truths = windows + np.array([[1, 0, 1, 0], [3, 0, 3, 0]], dtype=np.float32)
    regressor = BoxRegressor(2.0).fit(np.array([[1], [3]], dtype=np.float32), windows, truths)
    np.testing.assert_allclose(regressor.coef_, [[0.025, 0, 0, 0]], atol=1e-8)
    np.testing.assert_allclose(regressor.intercept_, [0.175, 0, 0, 0], atol=1e-8)


def test_whitening_cancels():
    # One λ for all four targets: (X'X + λI)^-1 X'(Y - mean) T T^-1. The release whitens, but
    # its result is that of plain ridge on centred targets.
    rows = problem(50, 20)
    first = BoxRegressor(100.0, whitening_epsilon=1e-3).fit(*rows)
    second = BoxRegressor(100.0, whitening_epsilon=10.0).fit(*rows)
    np.testing.assert_allclose(first.coef_, second.coef_, rtol=1e-5, atol=1e-9)


def test_predicts_better_boxes():
    features, windows, truths = problem(600, 40)
    regressor = BoxRegressor(10.0).fit(features[:500], windows[:500], truths[:500])
    boxes = regressor.transform(features[500:], windows[500:], (10_000, 10_000))
    assert boxes.dtype == np.float32
    before = np.abs(windows[500:] - truths[500:].clip(0)).mean()
    assert np.abs(boxes - truths[500:].clip(0)).mean() < before / 2
    np.testing.assert_array_equal(
        boxes, decode(windows[500:], regressor.predict(features[500:]), (10_000, 10_000))
    )
    small = regressor.transform(features[500:], windows[500:], (100, 80))
    assert small.min() >= 0
    assert small[:, 0::2].max() <= 100
    assert small[:, 1::2].max() <= 80


def test_same_rows_same_bits():
    rows = problem(700, 60)
    first, second = BoxRegressor().fit(*rows), BoxRegressor().fit(*rows)
    np.testing.assert_array_equal(first.coef_, second.coef_)
    np.testing.assert_array_equal(first.intercept_, second.intercept_)


def test_scikit_learns_habits():
    regressor = BoxRegressor(4000.0)
    assert regressor.get_params() == {
        "regularization": 4000.0,
        "whitening_epsilon": 0.001,
        "inclusive": False,
    }
    regressor.fit(*problem(30, 10))
    other = clone(regressor).set_params(regularization=1.0)
    with pytest.raises(NotFittedError):
        other.predict(np.zeros((1, 10), dtype=np.float32))
    with pytest.raises(NotFittedError):
        other.transform(np.zeros((1, 10), dtype=np.float32), np.ones((1, 4)), (5, 5))
    # fit starts afresh: another D, and nothing of the former rows.
    rows = problem(30, 12, seed=3)
    assert_close(regressor.fit(*rows), solve_normal_equations(*rows, 4000.0))


def test_inclusive_boxes_are_learnt_and_returned_as_such():
    features, windows, _ = problem(60, 10)
    targets = np.random.default_rng(1).normal(0.1, 0.05, (60, 4))
    truths = decode(windows, targets, inclusive=True)
    regressor = BoxRegressor(inclusive=True).fit(features, windows, truths)
    # The release's steps on the release's targets.
    whitened, mean, transform = whiten(encode(windows, truths, inclusive=True), 0.001)
    x = np.hstack([features.astype(np.float64), np.ones((60, 1))])
    beta = np.linalg.solve(x.T @ x + 1000 * np.eye(11), x.T @ whitened) @ np.linalg.inv(transform)
    assert_close(regressor, (beta[:-1], beta[-1] + mean))
    np.testing.assert_array_equal(
        regressor.transform(features, windows),
        decode(windows, regressor.predict(features), inclusive=True),
    )
    assert clone(regressor).inclusive
    plain = clone(regressor).set_params(inclusive=False).fit(features, windows, truths)
    assert np.abs(plain.intercept_ - regressor.intercept_).max() > 1e-4


def test_loaded_coefficients_predict():
    # As when a saved model is read: the two arrays are enough.
    features, windows, truths = problem(30, 10)
    regressor, loaded = BoxRegressor().fit(features, windows, truths), BoxRegressor()
    loaded.coef_, loaded.intercept_ = regressor.coef_, regressor.intercept_
    np.testing.assert_array_equal(loaded.predict(features), regressor.predict(features))


def test_empty_arrays():
    features, windows, truths = rows = problem(20, 10)
    regressor = BoxRegressor().partial_fit(features[:0], windows[:0], truths[:0])
    with pytest.raises(RegressionError, match="no windows"):
        regressor.solve()
    regressor.partial_fit(*rows).solve()
    assert_close(regressor, solve_normal_equations(*rows))
    assert regressor.predict(features[:0]).shape == (0, 4)
    assert regressor.transform(features[:0], windows[:0], (9, 9)).shape == (0, 4)


def test_order_of_calls():
    rows = problem(20, 10)
    with pytest.raises(RegressionError, match="no windows"):
        BoxRegressor().solve()
    with pytest.raises(NotFittedError):
        BoxRegressor().partial_fit(*rows).predict(rows[0])
    with pytest.raises(RegressionError, match="partial_fit after solve"):
        BoxRegressor().fit(*rows).partial_fit(*rows)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_bad_parameters(value):
    for name in ("regularization", "whitening_epsilon"):
        with pytest.raises(RegressionError, match=f"{name}: got"):
            BoxRegressor(**{name: value}).fit(*problem(5, 3))


def test_bad_rows():
    features, windows, truths = problem(20, 10)
    regressor = BoxRegressor().partial_fit(features, windows, truths)
    for bad, message in (
        ((features[:, :9], windows, truths), r"features: .*\(20, 9\), expected .*\(N, 10\)"),
        ((features[:19], windows, truths), r"features: .*\(19, 10\), expected .*\(20, D\)"),
        ((features[0], windows, truths), "features"),
        ((features + np.inf, windows, truths), "features.* finite"),
        ((features, windows[:19], truths), "truths"),
        ((features, windows[:, ::-1], truths), "windows: box 0 .* without area"),
    ):
        with pytest.raises(RegressionError, match=message):
            regressor.partial_fit(*bad)
    # Nothing of the bad rows was taken in.
    assert_close(regressor.solve(), solve_normal_equations(features, windows, truths))
    with pytest.raises(RegressionError, match=r"features: .*\(20, 9\), expected .*\(N, 10\)"):
        regressor.predict(features[:, :9])
    with pytest.raises(RegressionError, match=r"targets: .* expected .*\(3, 4\)"):
        regressor.transform(features, windows[:3], (9, 9))
    with pytest.raises(RegressionError, match=r"expected columns"):
        BoxRegressor().partial_fit(features[:, :0], windows, truths)
