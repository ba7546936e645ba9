import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proposals import ProposalError, measure_recall


def plain_iou(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def plain_recall(boxes: list, truths: list, threshold: float) -> float:
    covered = total = 0
    for windows, objects in zip(boxes, truths, strict=True):
        for truth in objects:
            total += 1
            covered += any(plain_iou(window, truth) >= threshold for window in windows)
    return covered / total if total else math.nan


def test_hand_worked() -> None:
    # A 10x10 object under a 10x8 window (0.8), one under 10x6 (0.6), one without a window.
    boxes = [[[0, 0, 10, 8], [20, 0, 30, 6]], [], [[5, 5, 9, 9], [1, 1, 2, 2]]]
    truths = [[[0, 0, 10, 10], [20, 0, 30, 10]], [[0, 0, 4, 4]], []]
    found = measure_recall(boxes, truths, thresholds=[0.55, 0.65, 0.85])
    assert found.recalls == pytest.approx([2 / 3, 1 / 3, 0])
    assert found.at_50 == pytest.approx(2 / 3)
    assert found.at_70 == pytest.approx(1 / 3)
    assert found.average == pytest.approx(2 * (0.3 + 0.1) / 3)
    assert found.windows == pytest.approx(4 / 3)
    assert found.objects == 3


def test_a_perfect_window_gives_one() -> None:
    found = measure_recall([[[1, 2, 3, 4]]], [[[1, 2, 3, 4]]])
    assert (found.at_50, found.at_70, found.average) == (1, 1, 1)


def test_no_objects_is_nan() -> None:
    for boxes, truths in (([], []), ([[[0, 0, 1, 1]]], [[]])):
        found = measure_recall(boxes, truths)
        assert found.objects == 0
        assert all(map(math.isnan, (found.at_50, found.at_70, found.average)))
        assert np.isnan(found.recalls).all()


corner = st.integers(0, 12)
box = st.builds(
    lambda x, y, w, h: [x, y, x + w, y + h], corner, corner, st.integers(1, 9), st.integers(1, 9)
)
photographs = st.lists(
    st.tuples(st.lists(box, max_size=6), st.lists(box, max_size=3)), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(photographs)
def test_equals_the_plain_reference(drawn: list) -> None:
    boxes, truths = [pair[0] for pair in drawn], [pair[1] for pair in drawn]
    levels = [0.31, 0.5, 0.7, 0.93]
    found = measure_recall(boxes, truths, levels)
    expected = [plain_recall(boxes, truths, level) for level in levels]
    np.testing.assert_allclose(found.recalls, expected)
    np.testing.assert_allclose([found.at_50, found.at_70], expected[1:3])
    middles = np.arange(0.5, 1, 0.002) + 0.001
    integral = np.mean([plain_recall(boxes, truths, middle) for middle in middles])
    np.testing.assert_allclose(found.average, integral, atol=2e-3)


@pytest.mark.parametrize(
    ("boxes", "truths", "levels"),
    [
        ([], [[]], [0.5]),
        ([[[0, 0, 1]]], [[]], [0.5]),
        ([[[0, 0, 1, np.nan]]], [[]], [0.5]),
        ([[[0, 0, 0, 1]]], [[]], [0.5]),
        ([[]], [[[3, 0, 1, 1]]], [0.5]),
        ([[]], [[]], [0.0]),
        ([[]], [[]], [1.1]),
        ([[]], [[]], 0.5),
    ],
)
def test_bad_input(boxes: list, truths: list, levels: object) -> None:
    with pytest.raises(ProposalError):
        measure_recall(boxes, truths, levels)
