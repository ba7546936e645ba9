"""The SVM against scikit-learn, and against the optimum found in other ways."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.svm import SVC, LinearSVC

from svm import LinearSvm, SvmError


def problem(positives=30, negatives=150, length=12, seed=0, gap=1.0):
    """Two overlapping clouds, features like pooled maps: not negative, norm near 20."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, -1], [positives, negatives])
    direction = rng.normal(0, 1, length)
    features = rng.normal(1, 1, (len(labels), length)) + gap * np.outer(labels == 1, direction)
    features = np.maximum(features, 0)
    features *= 20 / np.linalg.norm(features, axis=1).mean()
    order = rng.permutation(len(labels))
    return features[order], labels[order]


def objective(coef, intercept, features, labels, c=1e-3, positive_weight=2.0, multiplier=10.0):
    """½|w|² + C Σ weight · hinge: the bias is one more weight, of a constant feature."""
    bias_weight = intercept / multiplier
    slack = np.maximum(0, 1 - labels * (features @ coef + intercept))
    weight = np.where(labels == 1, positive_weight, 1.0)
    return 0.5 * (coef @ coef + bias_weight**2) + c * (weight * slack).sum()


def with_constant(features, multiplier):
    return np.hstack([features, np.full((len(features), 1), multiplier)])


def solve_dual(features, labels, c=1e-3, positive_weight=2.0, multiplier=10.0):
    """The dual: box-bounded and without an equality, since the bias is an ordinary weight."""
    x = labels[:, None] * with_constant(features, multiplier)
    bounds = [(0, c * positive_weight if label == 1 else c) for label in labels]
    found = minimize(
        lambda a: (0.5 * (a @ x) @ (a @ x) - a.sum(), x @ (a @ x) - 1),
        np.zeros(len(labels)),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-10},
    )
    weights = found.x @ x
    return weights[:-1], weights[-1] * multiplier, -found.fun


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("shape", [(30, 150, 12), (5, 40, 200), (1, 1, 3)])
def test_equals_linear_svc_at_the_release_settings(shape, seed):
    features, labels = problem(*shape, seed)
    svm = LinearSvm(tolerance=1e-6)
    assert svm.fit(features, labels) is svm
    reference = LinearSVC(
        C=1e-3,
        loss="hinge",
        class_weight={1: 2, -1: 1},
        intercept_scaling=10,
        tol=1e-6,
        max_iter=100_000,
        random_state=0,
    ).fit(features, labels)
    assert svm.coef_.dtype == np.float32
    assert svm.coef_.shape == (shape[2],)
    wanted = reference.coef_[0]
    np.testing.assert_allclose(svm.coef_, wanted, atol=1e-4 * np.abs(wanted).max())
    assert svm.intercept_ == pytest.approx(reference.intercept_[0], abs=1e-4)
    np.testing.assert_allclose(
        svm.decision_function(features), reference.decision_function(features), atol=1e-3
    )
    np.testing.assert_array_equal(svm.predict(features), reference.predict(features))


# C from so small that all examples are support vectors to so large that hardly one errs.
@pytest.mark.parametrize("c", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize(("positive_weight", "multiplier"), [(2.0, 10.0), (1.0, 1.0), (5.0, 30.0)])
def test_reaches_the_optimum_that_the_dual_bounds(c, positive_weight, multiplier):
    features, labels = problem(seed=3)
    settings = (c, positive_weight, multiplier)
    svm = LinearSvm(*settings, tolerance=1e-6).fit(features, labels)
    coef, intercept, bound = solve_dual(features, labels, *settings)
    reached = objective(svm.coef_.astype(float), svm.intercept_, features, labels, *settings)
    # No primal value lies below the dual's: the gap bounds what is left to gain.
    assert bound > 0
    assert bound * (1 - 1e-9) <= reached <= bound * (1 + 1e-4)
    scale = np.abs(coef).max()
    np.testing.assert_allclose(svm.coef_, coef, atol=0.005 * scale)
    assert svm.intercept_ == pytest.approx(intercept, abs=0.01)


def test_equals_libsvm_with_a_constant_feature():
    """SVC does not regularise its bias, so the constant feature is fed to it as a column and its
    own bias made to vanish: every example stands twice, the second time mirrored."""
    features, labels = problem(20, 60, 8, seed=4)
    x = with_constant(features, 10.0)
    weight = np.where(labels == 1, 2.0, 1.0) / 2
    reference = SVC(kernel="linear", C=1e-2, tol=1e-9).fit(
        np.vstack([x, -x]), np.concatenate([labels, -labels]), np.concatenate([weight, weight])
    )
    assert reference.intercept_[0] == pytest.approx(0, abs=1e-6)
    svm = LinearSvm(c=1e-2, tolerance=1e-6).fit(features, labels)
    wanted = x @ reference.coef_[0]
    np.testing.assert_allclose(svm.decision_function(features), wanted, atol=0.01)


def test_subgradient_is_zero_at_the_optimum():
    """w = C Σ weight · a · label · x with a of 1 inside the margin, 0 outside, between on it."""
    features, labels = problem(15, 50, 6, seed=5)
    c = 1e-2
    svm = LinearSvm(c=c, tolerance=1e-7).fit(features, labels)
    margin = labels * (features @ svm.coef_.astype(float) + svm.intercept_)
    near = np.abs(margin - 1) < 1e-3
    assert 0 < near.sum() < len(labels)
    pull = (np.where(labels == 1, 2.0, 1.0) * labels)[:, None] * with_constant(features, 10.0) * c
    weights = np.append(svm.coef_, svm.intercept_ / 10).astype(float)
    rest = weights - pull[margin < 1 - 1e-3].sum(axis=0)
    # Multipliers 0 … 1 of the examples on the margin that explain the rest: least residual.
    n, d = near.sum(), len(rest)
    cost = np.concatenate([np.zeros(n), np.ones(d)])
    both = np.block([[pull[near].T, -np.eye(d)], [-pull[near].T, -np.eye(d)]])
    bounds = [(0, 1)] * n + [(0, None)] * d
    found = linprog(cost, both, np.concatenate([rest, -rest]), bounds=bounds)
    assert found.success
    assert found.fun < 1e-3 * np.abs(weights).sum()


def test_loose_tolerance_is_near_the_optimum():
    """0.1 is liblinear's own default, and what the release used."""
    features, labels = problem(seed=6)
    svm = LinearSvm().fit(features, labels)
    bound = solve_dual(features, labels)[2]
    assert objective(svm.coef_, svm.intercept_, features, labels) <= bound * 1.05


def test_hand_worked():
    """−1 up to 0, +1 from 2, no room for errors: −b ≥ 1 and 2w + b ≥ 1, so b = −1 and w = 1."""
    svm = LinearSvm(c=100.0, positive_weight=1.0, bias_multiplier=1.0, tolerance=1e-8)
    svm.fit(np.array([[0.0], [-1.0], [2.0], [3.0]]), np.array([-1, -1, 1, 1]))
    assert svm.coef_[0] == pytest.approx(1, abs=1e-5)
    assert svm.intercept_ == pytest.approx(-1, abs=1e-5)
    scores = svm.decision_function(np.array([[0.0], [1.0], [1.5]]))
    np.testing.assert_allclose(scores, [-1, 0, 0.5], atol=1e-5)
    assert svm.predict(np.array([[0.0], [1.5]])).tolist() == [-1, 1]


def test_positives_weigh_twice():
    """One example of each kind at the same place: the positive wins, by its weight alone.

    With all margins violated, b / 10 = C · 10 · (2 − 1) and w = C · x · (2 − 1).
    """
    svm = LinearSvm(tolerance=1e-8).fit(np.array([[3.0], [3.0]]), np.array([1, -1]))
    assert svm.coef_[0] == pytest.approx(1e-3 * 3)
    assert svm.intercept_ == pytest.approx(1e-3 * 10 * 10)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_features_of_less_precision(dtype):
    features, labels = problem(seed=8)
    features = features.astype(dtype)
    svm = LinearSvm(tolerance=1e-5).fit(features, labels)
    exact = LinearSvm(tolerance=1e-5).fit(features.astype(float), labels)
    np.testing.assert_allclose(svm.coef_, exact.coef_, atol=1e-5)
    scores = svm.decision_function(features)
    wanted = features.astype(float) @ svm.coef_.astype(float) + svm.intercept_
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, wanted, atol=1e-4)


class Reader:
    """Gives rows of a table, and remembers how many at once and how often."""

    def __init__(self, features):
        self.features, self.asked = features, []

    def __call__(self, rows):
        assert (np.diff(rows) > 0).all()
        self.asked.append(len(rows))
        return self.features[rows]


@pytest.mark.parametrize("most", [1000, 180, 61, 20])
@pytest.mark.parametrize("shape", [(30, 150, 12), (60, 120, 300)])
def test_in_blocks_equals_all_at_once(shape, most):
    features, labels = problem(*shape, seed=7)
    whole = LinearSvm(c=1e-2, tolerance=1e-6).fit(features, labels)
    order = np.argsort(-labels, kind="stable")  # positives first, as mining has them
    read = Reader(features[order])
    svm = LinearSvm(c=1e-2, tolerance=1e-6)
    assert svm.fit_in_blocks(read, labels[order], most) is svm
    assert max(read.asked) <= most
    bound = solve_dual(features, labels, 1e-2)[2]
    found = objective(svm.coef_, svm.intercept_, features, labels, 1e-2)
    assert found == pytest.approx(bound, rel=1e-4)
    wanted = whole.decision_function(features)
    np.testing.assert_allclose(svm.decision_function(features), wanted, atol=1e-3)


def test_blocks_are_read_a_few_times():
    """Each is solved a little while it is there, and blocks are drawn anew in each pass."""
    features, labels = problem(200, 1000, 400, seed=1, gap=0.3)
    order = np.argsort(-labels, kind="stable")
    read = Reader(features[order])
    svm = LinearSvm(tolerance=0.01).fit_in_blocks(read, labels[order], 100)
    assert len(read.asked) / 12 <= 25
    bound = solve_dual(features, labels)[2]
    assert objective(svm.coef_, svm.intercept_, features, labels) <= bound * 1.005


def test_blocks_of_bad_examples_are_told():
    features, labels = problem(seed=3)
    features[7, 2] = np.nan
    with pytest.raises(SvmError, match="NaN"):
        LinearSvm().fit_in_blocks(lambda rows: features[rows], labels, 50)
    with pytest.raises(SvmError, match="expected both"):
        LinearSvm().fit_in_blocks(lambda rows: features[rows], np.ones(180, int), 50)


def test_same_seed_same_result():
    features, labels = problem(seed=9)
    one, other = (LinearSvm(seed=3).fit(features, labels) for _ in range(2))
    np.testing.assert_array_equal(one.coef_, other.coef_)
    assert one.intercept_ == other.intercept_


def test_estimator_habits():
    svm = LinearSvm(c=2e-3, positive_weight=3.0, bias_multiplier=4.0, tolerance=0.05, seed=2)
    wanted = {
        "c": 2e-3,
        "positive_weight": 3.0,
        "bias_multiplier": 4.0,
        "tolerance": 0.05,
        "seed": 2,
    }
    assert svm.get_params() == wanted
    svm.fit(*problem())
    copy = clone(svm)
    assert copy.get_params() == wanted
    assert not hasattr(copy, "coef_")
    assert svm.set_params(c=1.0) is svm
    assert svm.get_params()["c"] == 1.0
    assert LinearSvm().get_params() == {
        "c": 1e-3,
        "positive_weight": 2.0,
        "bias_multiplier": 10.0,
        "tolerance": 0.1,
        "seed": 0,
    }
    assert svm.classes_.tolist() == [-1, 1]
    features, labels = problem(gap=3.0)
    assert LinearSvm().fit(features, labels).score(features, labels) > 0.95


def test_scores_before_training():
    for method in ("decision_function", "predict"):
        with pytest.raises(NotFittedError):
            getattr(LinearSvm(), method)(np.zeros((1, 3)))


def test_scores_of_no_features():
    svm = LinearSvm().fit(*problem())
    assert svm.decision_function(np.zeros((0, 12))).shape == (0,)
    assert svm.predict(np.zeros((0, 12))).shape == (0,)


ZEROS = np.zeros((4, 3))


@pytest.mark.parametrize(
    ("features", "labels", "match"),
    [
        (np.zeros(4), [1, -1, 1, -1], r"features \(4,\) and labels \(4,\): expected"),
        (np.zeros((4, 3, 2)), [1, -1, 1, -1], r"features \(4, 3, 2\)"),
        (ZEROS, [1, -1, 1], r"features \(4, 3\) and labels \(3,\)"),
        (ZEROS, [[1], [-1], [1], [-1]], r"labels \(4, 1\)"),
        (ZEROS, [1, 1, 1, 1], r"expected both \+1 and −1"),
        (ZEROS, [-1, -1, -1, -1], r"expected both \+1 and −1"),
        (ZEROS, [0, 1, 0, 1], r"expected both \+1 and −1"),
        (ZEROS, [-1, 1, 0, 1], r"expected both \+1 and −1"),
        (np.zeros((0, 3)), [], r"expected both \+1 and −1"),
        (np.zeros((2, 0)), [1, -1], "features"),
        (np.array([[np.nan, 1], [1, 2]]), [1, -1], "features"),
        (np.array([[np.inf, 1], [1, 2]]), [1, -1], "features"),
    ],
)
def test_examples_that_cannot_be_trained_on(features, labels, match):
    with pytest.raises(SvmError, match=match) as caught:
        LinearSvm().fit(features, np.array(labels))
    assert "\n" not in str(caught.value)


def test_far_from_convergence_it_warns_once_and_keeps_its_best():
    features, labels = problem(200, 2000, 30, gap=0.0)
    match = r"^SVM of 2200 examples: not at tolerance 1e-12 after 10000 passes, [^\n]*$"
    with pytest.warns(ConvergenceWarning, match=match) as caught:
        svm = LinearSvm(c=1e3, tolerance=1e-12).fit(features, labels)
    assert [warning.filename for warning in caught] == [__file__]
    reached = objective(svm.coef_.astype(float), svm.intercept_, features, labels, 1e3)
    assert reached < 0.5 * objective(np.zeros(30), 0.0, features, labels, 1e3)


def test_at_a_tolerance_below_rounding_it_is_where_linear_svc_is():
    features, labels = problem(seed=7)
    with pytest.warns(ConvergenceWarning):
        svm = LinearSvm(c=1e-2, tolerance=1e-18).fit(features, labels)
    reference = LinearSVC(
        C=1e-2,
        loss="hinge",
        dual=True,
        class_weight={1: 2, -1: 1},
        intercept_scaling=10,
        tol=1e-18,
        max_iter=10_000,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning):
        reference.fit(features, labels)
    ours = objective(svm.coef_.astype(float), svm.intercept_, features, labels, 1e-2)
    theirs = objective(reference.coef_[0], reference.intercept_[0], features, labels, 1e-2)
    assert ours == pytest.approx(theirs, rel=1e-6)
