from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bbox_regression import RegressionError, decode, encode

WINDOW = np.array([[10, 20, 30, 60]], dtype=np.float32)


def test_hand_worked_targets():
    # Window: centre (20, 40), sides 20 x 40. Truth: centre (25, 50), sides 10 x 80.
    # (25 - 20) / 20 = .25, (50 - 40) / 40 = .25, log(10 / 20) = -log 2, log(80 / 40) = log 2.
    targets = encode(WINDOW, np.array([[20, 10, 30, 90]], dtype=np.float32))
    assert targets.dtype == np.float64
    np.testing.assert_allclose(targets, [[0.25, 0.25, -math.log(2), math.log(2)]], rtol=1e-15)


def test_hand_worked_boxes():
    # Centre (20 + .5 * 20, 40 - .25 * 40) = (30, 30); sides 20 * 2, 40 / 2 = 40 x 20.
    targets = np.array([[0.5, -0.25, math.log(2), -math.log(2)]])
    boxes = decode(WINDOW, targets)
    assert boxes.dtype == np.float32
    np.testing.assert_allclose(boxes, [[10, 20, 50, 40]], rtol=1e-6)
    np.testing.assert_allclose(decode(WINDOW, targets, (45, 30)), [[10, 20, 45, 30]], rtol=1e-6)


def test_a_window_that_is_the_truth_has_zero_targets():
    np.testing.assert_array_equal(encode(WINDOW, WINDOW), np.zeros((1, 4)))
    np.testing.assert_array_equal(decode(WINDOW, np.zeros((1, 4))), WINDOW)


def test_hand_worked_inclusive_targets():
    # VOC's 11 21 30 60 and 16 11 30 90: sides 19 x 39 and 14 x 79, centres (20.5, 40.5) and
    # (23, 50.5), in the release's way.
    window, truth = np.array([[10, 20, 30, 60]]), np.array([[15, 10, 30, 90]])
    targets = encode(window, truth, inclusive=True)
    expected = [[2.5 / 19, 10 / 39, math.log(14 / 19), math.log(79 / 39)]]
    np.testing.assert_allclose(targets, expected, rtol=1e-14)
    np.testing.assert_allclose(decode(window, targets, inclusive=True), truth, rtol=1e-6)
    # Half-open sides are 20 x 40 and 15 x 80: other targets.
    np.testing.assert_allclose(encode(window, truth)[0, 2:], np.log([15 / 20, 80 / 40]))


def test_hand_worked_inclusive_boxes():
    # Pixels 10 … 29 and 20 … 59: sides 19 x 39, centre (19.5, 39.5). Moved by a whole side to
    # (38.5, 39.5) and stretched to 38 x 39: pixels 19.5 … 57.5 and 20 … 59.
    targets = np.array([[1, 0, math.log(2), 0]])
    boxes = decode(WINDOW, targets, inclusive=True)
    np.testing.assert_allclose(boxes, [[19.5, 20, 58.5, 60]], rtol=1e-6)
    clipped = decode(WINDOW, targets, (45, 30), inclusive=True)
    np.testing.assert_allclose(clipped, [[19.5, 20, 45, 30]], rtol=1e-6)


def release_targets(ex_box, gt_box):
    """spp_train_bbox_regressor.m, line by line, on 1-based inclusive boxes."""
    eps = 2.0**-52
    src_w, src_h = ex_box[2] - ex_box[0] + eps, ex_box[3] - ex_box[1] + eps
    src_ctr_x, src_ctr_y = ex_box[0] + 0.5 * src_w, ex_box[1] + 0.5 * src_h
    gt_w, gt_h = gt_box[2] - gt_box[0] + eps, gt_box[3] - gt_box[1] + eps
    gt_ctr_x, gt_ctr_y = gt_box[0] + 0.5 * gt_w, gt_box[1] + 0.5 * gt_h
    return [
        (gt_ctr_x - src_ctr_x) * 1 / src_w,
        (gt_ctr_y - src_ctr_y) * 1 / src_h,
        math.log(gt_w / src_w),
        math.log(gt_h / src_h),
    ]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20))
def test_inclusive_targets_are_the_releases(seed, n):
    """Whole pixels, as both proposals and labels have them; some a single pixel wide."""
    rng = np.random.default_rng(seed)
    windows, truths = (
        np.hstack([corner, corner + rng.integers(1, 40, (n, 2))])
        for corner in rng.integers(0, 400, (2, n, 2))
    )
    # 1-based and inclusive: only the first corner moves.
    shift = np.array([1, 1, 0, 0])
    expected = [
        release_targets(window, truth)
        for window, truth in zip((windows + shift).tolist(), (truths + shift).tolist(), strict=True)
    ]
    targets = encode(windows, truths, inclusive=True)
    np.testing.assert_allclose(targets, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        decode(windows, targets, inclusive=True), truths, rtol=1e-6, atol=1e-5
    )


def test_inclusive_boxes_a_pixel_wide_and_narrower():
    """Their side is 0: no division by it, and beside themselves no targets but 0."""
    thin = np.array([[5, 5, 6, 25], [5, 5, 25, 6], [5, 5, 6, 6]])
    np.testing.assert_array_equal(encode(thin, thin, inclusive=True), np.zeros((3, 4)))
    np.testing.assert_array_equal(decode(thin, np.zeros((3, 4)), inclusive=True), thin)
    for windows, truths in ((thin, WINDOW.repeat(3, 0)), (WINDOW.repeat(3, 0), thin)):
        targets = encode(windows, truths, inclusive=True)
        assert np.isfinite(targets).all()
        np.testing.assert_allclose(
            decode(windows, targets, inclusive=True), truths, rtol=1e-6, atol=1e-5
        )
    half = np.array([[5, 5, 5.5, 25]])
    np.testing.assert_array_equal(encode(half, thin[:1], inclusive=True), np.zeros((1, 4)))


def boxes(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.random((n, 2)) * 400
    return np.hstack([corner, corner + 1 + rng.random((n, 2)) * 300]).astype(np.float32)


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 20), st.booleans())
def test_decode_is_the_inverse_of_encode(seed, n, inclusive):
    windows, truths = boxes(seed, n), boxes(seed + 1, n)
    targets = encode(windows, truths, inclusive=inclusive)
    # Float64 inside, so what is left is the rounding to float32 at the end.
    np.testing.assert_allclose(
        decode(windows, targets, inclusive=inclusive), truths, rtol=1e-6, atol=1e-5
    )


@settings(deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 20))
def test_encode_is_the_inverse_of_decode(seed, n):
    windows = boxes(seed, n)
    targets = np.random.default_rng(seed).normal(0, 0.4, (n, 4))
    # Boxes are rounded to float32: 3e-5 of a pixel, over sides of a pixel or more.
    np.testing.assert_allclose(encode(windows, decode(windows, targets)), targets, atol=2e-3)


def test_clipping_is_to_the_photograph():
    windows = np.array([[-5, -5, 5, 5], [90, 40, 120, 70], [200, 200, 210, 210]], dtype=np.float32)
    clipped = decode(windows, np.zeros((3, 4)), (100, 50))
    # The last lies wholly outside: a box without area in the corner.
    np.testing.assert_array_equal(clipped, [[0, 0, 5, 5], [90, 40, 100, 50], [100, 50, 100, 50]])


def test_a_huge_target_ends_at_the_border_or_in_an_error():
    targets = np.array([[0, 0, 1e4, 0]])
    np.testing.assert_array_equal(decode(WINDOW, targets, (100, 50)), [[0, 20, 100, 50]])
    with pytest.raises(RegressionError, match="beyond float32"):
        decode(WINDOW, targets)


def test_empty():
    nothing = np.zeros((0, 4), dtype=np.float32)
    assert encode(nothing, nothing).shape == (0, 4)
    assert decode(nothing, nothing, (5, 5)).shape == (0, 4)


@pytest.mark.parametrize(
    ("windows", "truths", "message"),
    [
        (WINDOW[0], WINDOW, r"windows: got float32 of shape \(4,\), expected .* \(N, 4\)"),
        (WINDOW, WINDOW[:, :3], r"truths: got float32 of shape \(1, 3\), expected .* \(1, 4\)"),
        (WINDOW, np.vstack([WINDOW, WINDOW]), r"truths: .* expected .* \(1, 4\)"),
        (WINDOW * np.nan, WINDOW, "windows: got NaN"),
        (WINDOW, WINDOW[:, [2, 1, 0, 3]], "truths: box 0 .* without area"),
        (WINDOW[:, [0, 1, 0, 3]], WINDOW, "windows: box 0 .* without area"),
        (WINDOW.astype(str), WINDOW, "windows: got <U"),
    ],
)
def test_bad_boxes(windows, truths, message):
    with pytest.raises(RegressionError, match=message):
        encode(windows, truths)


@pytest.mark.parametrize("size", [(0, 5), (5,), (5, math.nan), 5])
def test_bad_size(size):
    with pytest.raises(RegressionError, match="size: got"):
        decode(WINDOW, np.zeros((1, 4)), size)
