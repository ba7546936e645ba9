"""The stage of box regression beside scikit-learn's Ridge on pairs that are found by hand."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from bbox_regression import encode
from spp_detect.training.regression import FitRegression

LAMBDA, LEAST = 0.7, 0.6
SCALE = 43.0


def overlap(one, other):
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def pair_by_hand(dataset, table, c):
    """Photograph, row, window and box of each window that is nearest to a box of a class."""
    for i, photograph in enumerate(dataset):
        easy = photograph.labels.easy
        for row, window in enumerate(table.find(i)):
            overlaps = [overlap(window.tolist(), box) for box in easy.boxes.tolist()]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if overlaps and overlaps[best] >= LEAST and easy.classes[best] == c:
                yield i, row, window, easy.boxes[best]


@pytest.mark.parametrize("c", [0, 3])
def test_equals_ridge_on_pairs_by_hand(tmp_path, make_run, small_set, small_config, c):
    constants = {"regression_lambda": LAMBDA, "regression_iou": LEAST, "max_windows": 300}
    config = small_config(**constants)
    run = make_run(tmp_path, small_set, config)
    run.begin()
    table = run.propose()
    cache = run.open_cache(table)
    coef, intercept = FitRegression(run.work, small_set, cache, config, SCALE)._fit_class(c)

    pairs = list(pair_by_hand(small_set, table, c))
    assert len(pairs) > 10
    found = [cache.pool(i, np.array([row])) for i, row, *_ in pairs]
    features = np.stack([pooled.features[0].float().numpy() for pooled in found]).astype(float)
    windows, boxes = (np.stack([pair[k] for pair in pairs]) for k in (2, 3))
    targets = encode(windows, boxes)
    mean = targets.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(targets.T, bias=True))
    whiten = vectors @ np.diag((values + 0.001) ** -0.5) @ vectors.T
    columns = np.hstack([SCALE * features, np.ones((len(features), 1))])
    ridge = Ridge(alpha=LAMBDA, fit_intercept=False, solver="svd")
    ridge.fit(columns, (targets - mean) @ whiten)
    expected = ridge.predict(columns) @ np.linalg.inv(whiten) + mean
    predicted = features @ coef.numpy() + intercept.numpy()
    np.testing.assert_allclose(predicted, expected, atol=2e-4)
    assert expected.std(axis=0).min() > 0.01  # much more than the tolerance
