"""The vote on boxes, by numbers worked by hand."""

import numpy as np
import pytest
import torch
from torchvision.ops import nms

from spp_detect.config import make_config
from spp_detect.heads import Heads
from spp_detect.postprocess import ScoredWindows, select_detections

BOXES = torch.tensor(
    [
        [10.0, 10.0, 30.0, 30.0],  # kept: the best
        [14.0, 10.0, 34.0, 30.0],  # overlaps it by 2/3: votes with a quarter of its weight
        [24.0, 10.0, 44.0, 30.0],  # by 3/17: does not vote on it, and is kept by itself
        [10.0, 12.0, 30.0, 32.0],  # by 9/11, but scores below the margin
    ]
)
SCORES = torch.tensor([[1.0], [-0.5], [0.0], [-1.2]])


def select(boxes, scores, vote=True, regress=True, **changes):
    classes = scores.shape[1]
    heads = Heads(*(torch.zeros(classes, *shape) for shape in ((3,), (), (3, 4), (4,))))
    rows = torch.arange(len(boxes))
    one = ScoredWindows(boxes, scores, torch.zeros(len(boxes), 3), rows, (100, 100), heads)
    return select_detections([one], make_config(**changes), vote=vote, regress=regress)


def test_neighbours_vote_by_how_far_they_score_above_the_margin():
    found = select(BOXES, SCORES, vote_iou=0.5)
    # (2 * 10 + 0.5 * 14) / 2.5 = 10.8; window 2 overlaps window 1 by 1/3 only.
    np.testing.assert_allclose(found.boxes, [[10.8, 10, 30.8, 30], [24, 10, 44, 30]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [1, 0])


def test_without_a_vote_the_best_box_stands():
    for found in (select(BOXES, SCORES, vote_iou=None), select(BOXES, SCORES, vote=False)):
        np.testing.assert_allclose(found.boxes, BOXES[[0, 2]], atol=1e-5)


def test_a_box_below_the_margin_stays():
    np.testing.assert_allclose(select(BOXES[3:], SCORES[3:]).boxes, BOXES[3:], atol=1e-5)


def test_classes_do_not_vote_for_each_other():
    other = torch.tensor([[-2.0], [1.0], [-2.0], [-2.0]])
    found = select(BOXES, torch.cat([SCORES, other], dim=1), vote_iou=0.5)
    np.testing.assert_allclose(found.boxes[found.labels == 1], BOXES[[1]], atol=1e-5)


def test_the_presets_of_paper_and_release_do_not_vote():
    assert make_config("paper").vote_iou is make_config("release").vote_iou is None


@pytest.mark.parametrize("most", [1, 3, 10, 100])
def test_the_best_of_all_are_kept_whatever_nms_sees_first(most):
    rng = np.random.default_rng(0)
    boxes = torch.from_numpy(rng.uniform(0, 60, (500, 4)).astype(np.float32))
    boxes[:, 2:] += boxes[:, :2] + 5
    boxes[100:300] = boxes[100]  # one above another, so that few are kept of the first
    scores = torch.from_numpy(rng.integers(-1, 40, (500, 1)).astype(np.float32))  # with ties
    scores[100:300] += 100
    found = select(boxes, scores, regress=False, max_detections=most)
    kept = nms(boxes, scores[:, 0], 0.3)
    wanted = kept[scores[kept, 0] > -1.5][:most]
    np.testing.assert_array_equal(found.scores, scores[wanted, 0])
    np.testing.assert_array_equal(found.boxes, boxes[wanted])
