"""Which windows fine-tuning draws: by hand-worked cases and by counting."""

from pathlib import Path

import numpy as np

from data import Labels, Photograph
from spp_detect.training.sampling import draw_windows, label_windows


def make_photograph(boxes, classes, difficult) -> Photograph:
    labels = Labels(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes, np.int64),
        np.array(difficult, bool),
    )
    return Photograph("one", Path("one.jpg"), 100, 100, labels)


def test_labels_by_hand():
    photograph = make_photograph(
        [[0, 0, 10, 10], [50, 50, 60, 60], [80, 80, 90, 90]], [2, 0, 1], [False, False, True]
    )
    windows = np.array(
        [
            [0, 0, 10, 10],  # the boxes that are not difficult are windows themselves
            [50, 50, 60, 60],
            [0, 0, 10, 6],  # IoU 0.6 with the first box
            [0, 0, 10, 5],  # 0.5: still positive
            [50, 50, 60, 54],  # 0.4: background
            [50, 50, 60, 51],  # 0.1: background
            [50, 50, 60, 50.9],  # 0.09: neither
            [80, 80, 90, 90],  # a difficult box: nothing overlaps
        ],
        np.float32,
    )
    labelled = label_windows(photograph, windows, 0.5, (0.1, 0.5))
    assert labelled.positives.tolist() == [0, 1, 2, 3]
    assert windows[labelled.positives].tolist() == [
        [0, 0, 10, 10],
        [50, 50, 60, 60],
        [0, 0, 10, 6],
        [0, 0, 10, 5],
    ]
    assert labelled.labels.tolist() == [2, 0, 2, 2]
    assert labelled.negatives.tolist() == [4, 5]
    assert windows[labelled.negatives].tolist() == [[50, 50, 60, 54], [50, 50, 60, 51]]


def test_a_photograph_without_boxes_has_nothing_to_draw():
    labelled = label_windows(
        make_photograph([], [], []), np.array([[0, 0, 5, 5]], np.float32), 0.5, (0.1, 0.5)
    )
    rows, labels = draw_windows(labelled, 2, 6, 3, np.random.default_rng(0))
    assert rows.shape == (0,)
    assert labels.shape == (0,)


def test_draws_are_fair_and_of_the_numbers_asked_for():
    photograph = make_photograph([[0, 0, 10, 10]], [1], [False])
    windows = np.array([[0, 0, 10, height] for height in (10, 7, 8, 2, 3)], np.float32)
    labelled = label_windows(photograph, windows, 0.5, (0.1, 0.5))
    drawn = [draw_windows(labelled, 2, 5, 9, np.random.default_rng(seed)) for seed in range(300)]
    assert all(labels.tolist() == [1, 1, 9, 9, 9, 9, 9] for _, labels in drawn)
    # Three positives, two drawn without repeating: each in two draws of three.
    heights = [windows[rows[:2], 3].tolist() for rows, _ in drawn]
    assert all(len(set(pair)) == 2 for pair in heights)
    for height in (7, 8, 10):
        share = np.mean([height in pair for pair in heights])
        assert abs(share - 2 / 3) < 0.12
    # Two negatives cannot fill five places but by repeating.
    assert {2, 3} == {int(h) for rows, _ in drawn for h in windows[rows[2:], 3]}
