"""SVMs on kernels, beside liblinear's on the vectors themselves."""

import numpy as np
import pytest
from sklearn.svm import LinearSVC

from spp_detect.classification.kernel_svms import pick_best, train_svms


@pytest.fixture
def examples():
    random = np.random.default_rng(0)
    labels = np.where(random.random((60, 3)) < 0.3, 1, -1)
    rows = random.normal(size=(60, 8)) + 0.7 * labels @ random.normal(size=(3, 8))
    return rows.astype(np.float32), labels, random.normal(size=(20, 8)).astype(np.float32)


@pytest.mark.parametrize("c", [0.1, 1.0])
def test_scores_are_liblinears(examples, c):
    rows, labels, others = examples
    scores = train_svms(rows @ rows.T, labels, c).score(others @ rows.T)
    for k, own in enumerate(labels.T):
        # So large a constant feature that its weight costs nothing: ours costs nothing at all.
        svm = LinearSVC(C=c, loss="hinge", intercept_scaling=100, tol=1e-8, max_iter=10**6)
        expected = svm.fit(rows, own).decision_function(others)
        np.testing.assert_allclose(scores[:, k], expected, atol=0.02)


def test_examples_of_label_0_are_as_if_they_were_not_there(examples):
    rows, labels, others = examples
    left_out = labels.copy()
    left_out[::4, 1] = 0
    kept = left_out[:, 1] != 0
    scores = train_svms(rows @ rows.T, left_out, 1.0).score(others @ rows.T)
    alone = train_svms(rows[kept] @ rows[kept].T, labels[kept], 1.0).score(others @ rows[kept].T)
    np.testing.assert_allclose(scores[:, 1], alone[:, 1], atol=0.01)
    assert abs(scores[:, 0] - alone[:, 0]).max() > 0.05  # of class 0 no example was left out


def test_the_smallest_of_the_best_is_picked():
    assert pick_best([0.2, 0.5, 0.5], (0.1, 1.0, 10.0)) == 1.0
    assert pick_best([float("nan"), 0.0, 0.1], (0.1, 1.0, 10.0)) == 10.0
