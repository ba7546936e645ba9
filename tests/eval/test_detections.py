"""Detections beside a plain list of rows, which count, index and iterate the same."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import Detection, Detections, EvalError

ROWS = [
    ((10.0, 20.0, 60.0, 80.0), 0.75, 1),
    ((15.0, 20.0, 70.0, 80.0), 0.5, 0),
    ((0.0, 0.0, 40.0, 30.0), -0.25, 1),
]


def build(rows) -> Detections:
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([label for _, _, label in rows], np.int64),
    )


def read(detections: Detections) -> list:
    return [(tuple(box.tolist()), score, label) for box, score, label in detections]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_length_and_iteration(count):
    found = build(ROWS[:count])
    assert len(found) == count
    assert bool(found) == (count > 0)
    assert read(found) == ROWS[:count]
    assert all(isinstance(one, Detection) for one in found)


@settings(deadline=None)
@given(st.slices(3))
def test_slices_are_a_lists(rows):
    part = build(ROWS)[rows]
    assert isinstance(part, Detections)
    assert read(part) == ROWS[rows]


@pytest.mark.parametrize(
    ("rows", "kept"),
    [
        (np.array([True, False, True]), [0, 2]),
        (np.array([False, False, False]), []),
        (np.array([2, 0, 2]), [2, 0, 2]),
        ([-1, 1], [2, 1]),
        (np.zeros(0, np.int64), []),
    ],
)
def test_masks_and_arrays_of_integers(rows, kept):
    part = build(ROWS)[rows]
    assert isinstance(part, Detections)
    assert read(part) == [ROWS[i] for i in kept]
    assert part.boxes.shape == (len(kept), 4)
    assert (part.boxes.dtype, part.scores.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize("row", [0, -1, np.int64(1), np.array(2)])
def test_one_integer_gives_one_detection(row):
    one = build(ROWS)[row]
    assert isinstance(one, Detection)
    assert (type(one.score), type(one.label)) == (float, int)
    assert (tuple(one.box.tolist()), one.score, one.label) == ROWS[int(row)]


def test_rows_that_are_not_there():
    for rows in (3, -4, [0, 3], np.array([True, False])):
        with pytest.raises(IndexError):
            build(ROWS)[rows]


def test_equality():
    found = build(ROWS)
    assert found == build(ROWS)
    assert build([]) == build([])
    for other in (build(ROWS[:2]), build(ROWS[::-1]), build([]), ROWS, None):
        assert found != other
    for name in ("boxes", "scores", "labels"):
        assert found != dataclasses.replace(found, **{name: getattr(found, name) + 1})
    with pytest.raises(TypeError):
        hash(found)


def test_they_are_shown_and_frozen():
    found = build(ROWS[:1])
    for word in ("Detections", "boxes", "60.", "scores", "0.75", "labels"):
        assert word in repr(found)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.scores = found.scores + 1


def test_lists_become_arrays():
    found = Detections([[0, 0, 5, 5]], [0.5], [2])
    assert read(found) == [((0, 0, 5, 5), 0.5, 2)]
    with pytest.raises(EvalError, match=r"detections: scores have shape \(2,\), expected \(1,\)"):
        Detections([[0, 0, 5, 5]], [0.5, 0.6], [2])
