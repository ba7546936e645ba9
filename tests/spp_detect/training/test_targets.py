"""Examples by hand-worked cases."""

from pathlib import Path

import numpy as np

from data import Labels, Photograph
from spp_detect.training.targets import find_negatives, match_windows, select_regression_pairs


def make_photograph(boxes, classes, difficult=None) -> Photograph:
    flags = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult)
    labels = Labels(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), flags)
    return Photograph("one", Path("one.jpg"), 100, 100, labels)


def test_negatives_by_hand():
    photograph = make_photograph([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1], [False, True])
    windows = np.array(
        [
            [0, 0, 10, 10],  # the box of class 0
            [0, 0, 10, 30],  # IoU 1/3 with it
            [0, 0, 10, 34],  # IoU 10/34 = 0.294
            [50, 50, 60, 60],  # the difficult box of class 1
            [80, 80, 90, 90],  # nothing
        ],
        np.float32,
    )
    negative = find_negatives(photograph, windows, 3, 0.3, None)
    assert negative[:, 0].tolist() == [False, False, True, True, True]
    assert negative[:, 1].tolist() == [True, True, True, False, True]
    assert negative[:, 2].all()


def test_negatives_of_the_paper_do_not_overlap_much():
    photograph = make_photograph([[0, 0, 10, 10]], [0])
    windows = np.array(
        [
            [0, 0, 10, 10],
            [20, 20, 40, 40],  # proposed first: stays
            [20, 20, 40, 38],  # IoU 0.9 with it: goes
            [20, 20, 40, 33],  # IoU 0.65 with the first, 0.72 with one that went: stays
        ],
        np.float32,
    )
    negative = find_negatives(photograph, windows, 2, 0.3, 0.7)
    assert negative[:, 0].tolist() == [False, True, False, True]
    assert negative[:, 1].tolist() == [True, True, False, True]


def test_no_boxes_makes_every_window_a_negative():
    windows = np.array([[0, 0, 5, 5]], np.float32)
    assert find_negatives(make_photograph([], []), windows, 4, 0.3, None).all()


def test_windows_are_matched_with_the_box_that_they_overlap_best():
    photograph = make_photograph(
        [[60, 60, 70, 70], [0, 0, 10, 10], [4, 0, 14, 10]], [0, 0, 1], [True, False, False]
    )
    windows = np.array(
        [
            [0, 0, 10, 8],  # IoU 0.8 with the first easy box
            [3, 0, 13, 10],  # 7/13 with it, 9/11 with the second
            [60, 60, 70, 70],  # a difficult box: nothing
        ],
        np.float32,
    )
    best, which = match_windows(photograph, windows)
    np.testing.assert_allclose(best, [0.8, 9 / 11, 0], rtol=1e-6)
    assert which[:2].tolist() == [0, 1]


def test_regression_pairs_by_hand():
    photograph = make_photograph(
        [[0, 0, 10, 10], [4, 0, 14, 10], [60, 60, 70, 70]], [0, 1, 0], [False, False, True]
    )
    windows = np.array(
        [
            [0, 0, 10, 10],  # the easy boxes are windows themselves
            [4, 0, 14, 10],
            [0, 0, 10, 8],  # IoU 0.8 with box 0
            [3, 0, 13, 10],  # IoU 7/13 with box 0, 9/11 with box 1: class 1
            [0, 0, 10, 21],  # IoU 10/21 < 0.5 with box 0
            [60, 60, 70, 70],  # a difficult box
        ],
        np.float32,
    )
    rows, boxes = select_regression_pairs(photograph, windows, 0, 0.5)
    assert windows[rows].tolist() == [[0, 0, 10, 10], [0, 0, 10, 8]]
    assert rows.tolist() == [0, 2]
    assert boxes.tolist() == [[0, 0, 10, 10]] * 2
    rows, boxes = select_regression_pairs(photograph, windows, 1, 0.5)
    assert windows[rows].tolist() == [[4, 0, 14, 10], [3, 0, 13, 10]]
    assert rows.tolist() == [1, 3]
    assert boxes.tolist() == [[4, 0, 14, 10]] * 2
    for nothing in select_regression_pairs(photograph, windows, 2, 0.5):
        assert len(nothing) == 0
