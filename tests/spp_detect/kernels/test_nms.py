"""NMS against torchvision's, and the vote against loops."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from spp_detect.kernels.nms import sum_votes, suppress, vote_on_boxes


def random_boxes(count, rng):
    boxes = rng.integers(0, 40, (count, 4)).astype(np.float32)
    boxes[:, 2:] += boxes[:, :2] * rng.integers(0, 2, (count, 1))  # some without area
    boxes += rng.random((count, 4)).astype(np.float32) * rng.integers(0, 2, (count, 1))
    boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
    return boxes


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(0, 80),
    iou=st.sampled_from([0.1, 0.3, 0.5, 0.99]),
    most=st.sampled_from([1, 2, 5, 100]),
    seed=st.integers(0, 999_999),
)
def test_equals_torchvisions(count, iou, most, seed):
    rng = np.random.default_rng(seed)
    boxes = random_boxes(count, rng)
    scores = rng.integers(-9, 9, count).astype(np.float32)  # with ties
    rows = np.flatnonzero(scores > -5)
    wanted = nms(torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows]), iou)[:most]
    found = suppress(boxes, scores, -5.0, iou, most)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, rows[wanted.numpy()])


def test_scores_that_differ_in_double_precision_only():
    boxes = np.array([[0, 0, 9, 9]] * 2, np.float32)
    scores = np.array([1, 1 + 1e-12])
    assert suppress(boxes, scores, 0.0, 0.3, 9).tolist() == [1]


def vote_slowly(boxes, voters, weights, iou):
    """The boxes after the vote, and the sums of the weights."""
    voted, sums = [], []
    for box in boxes.astype(float):
        votes = []
        for voter, weight in zip(voters.astype(float), weights, strict=True):
            sides = np.minimum(box[2:], voter[2:]) - np.maximum(box[:2], voter[:2])
            both = np.prod(sides.clip(0))
            areas = np.prod(box[2:] - box[:2]) + np.prod(voter[2:] - voter[:2])
            if both and both / (areas - both) >= iou:
                votes.append((weight, voter))
        total = sum(weight for weight, _ in votes)
        voted.append(sum(w * v for w, v in votes) / total if votes else box)
        sums.append(total)
    return np.array(voted).reshape(-1, 4), np.array(sums)


def test_vote_against_loops():
    rng = np.random.default_rng(0)
    boxes, voters = random_boxes(60, rng), random_boxes(90, rng)
    weights = rng.random(90) + 0.01
    voted = vote_on_boxes(boxes, voters, weights, 0.4)
    assert voted.dtype == np.float32
    wanted, sums = vote_slowly(boxes, voters, weights, 0.4)
    np.testing.assert_allclose(voted, wanted, rtol=1e-6)
    np.testing.assert_allclose(sum_votes(boxes, voters, weights, 0.4), sums, rtol=1e-12)
    stayed = (voted == boxes).all(axis=1)
    assert 5 < stayed.sum() < 55


def test_without_boxes_or_voters():
    none = np.empty((0, 4), np.float32)
    one = np.array([[0, 0, 9, 9]], np.float32)
    assert vote_on_boxes(none, one, np.ones(1), 0.4).shape == (0, 4)
    assert vote_on_boxes(one, none, np.ones(0), 0.4).tolist() == one.tolist()
    assert sum_votes(one, none, np.ones(0), 0.4).tolist() == [0.0]
