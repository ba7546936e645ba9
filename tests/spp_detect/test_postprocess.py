"""The vote on boxes, by numbers worked by hand."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou, nms

from bbox_regression import decode
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
    config = make_config(**{"passes": 1, "support": 0.0} | changes)
    return select_detections([one], config, vote=vote, regress=regress)


def test_neighbours_vote_by_how_far_they_score_above_the_margin():
    found = select(BOXES, SCORES, vote_iou=0.5)
    # (2 * 10 + 0.5 * 14) / 2.5 = 10.8; window 2 overlaps window 1 by 1/3 only.
    np.testing.assert_allclose(found.boxes, [[10.8, 10, 30.8, 30], [24, 10, 44, 30]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [1, 0])


def test_voters_raise_the_score_of_what_they_support():
    found = select(BOXES, SCORES, support=0.15, support_iou=0.6)
    # Itself by 2 and window 1 by 0.5; window 2 only itself, by 1.
    wanted = [1 + 0.15 * np.log(1 + 2.5), 0.15 * np.log(1 + 1)]
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-6)
    alone = select(BOXES, SCORES, support=0.15, support_iou=0.7)  # window 1 overlaps by 2/3
    np.testing.assert_allclose(alone.scores[0], 1 + 0.15 * np.log(1 + 2), rtol=1e-6)


def test_many_voters_bring_a_box_before_a_better_one():
    crowd = [[60.0, 60.0, 80.0, 80.0]] * 20
    boxes = torch.cat([BOXES[:1], torch.tensor(crowd)])
    scores = torch.tensor([[1.0]] + [[0.9]] * 20)
    np.testing.assert_allclose(select(boxes, scores).boxes[0], BOXES[0], atol=1e-4)
    np.testing.assert_allclose(select(boxes, scores, support=0.1).boxes[0], crowd[0], atol=1e-4)


def test_without_a_vote_the_best_box_and_its_score_stand():
    unmoved = select(BOXES, SCORES, vote_iou=None, support=0.15)
    for found in (unmoved, select(BOXES, SCORES, vote=False, support=0.15)):
        np.testing.assert_allclose(found.boxes, BOXES[[0, 2]], atol=1e-5)
        np.testing.assert_allclose(found.scores, [1, 0])


def test_a_box_below_the_margin_stays():
    np.testing.assert_allclose(select(BOXES[3:], SCORES[3:]).boxes, BOXES[3:], atol=1e-5)


def test_classes_do_not_vote_for_each_other():
    other = torch.tensor([[-2.0], [1.0], [-2.0], [-2.0]])
    found = select(BOXES, torch.cat([SCORES, other], dim=1), vote_iou=0.5)
    np.testing.assert_allclose(found.boxes[found.labels == 1], BOXES[[1]], atol=1e-5)


def test_the_presets_of_paper_and_release_do_not_vote_and_look_once():
    for preset in ("paper", "release"):
        assert (make_config(preset).vote_iou, make_config(preset).passes) == (None, 1)
    assert make_config("fast-rcnn").support == 0  # its scores are log-odds as they are


def test_after_several_passes_boxes_are_not_moved_again():
    heads = Heads(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 3, 4), torch.full((1, 4), 0.5))
    rows = torch.arange(len(BOXES))
    one = ScoredWindows(BOXES, SCORES, torch.zeros(len(BOXES), 3), rows, (100, 100), heads)
    found = select_detections([one], make_config(passes=2, vote_iou=0.5))
    np.testing.assert_allclose(found.boxes, [[10.8, 10, 30.8, 30], [24, 10, 44, 30]], atol=1e-5)
    moved = select_detections([one], make_config(passes=1, vote_iou=0.5))
    assert not np.isclose(moved.boxes, found.boxes).any(axis=1).any()


def test_promising_windows_are_found_class_by_class():
    scores = torch.tensor([[0.5, -2.0], [-1.0, 0.1], [-0.9, 3.0]])
    heads = Heads.empty(2, 3, 3)
    boxes, rows = BOXES[:3], torch.arange(3)
    one = ScoredWindows(boxes, scores, torch.zeros(3, 3), rows, (100, 100), heads)
    for most, pairs in (
        (9, [(0, 0), (2, 0), (1, 1), (2, 1)]),
        (3, [(0, 0), (1, 1), (2, 1)]),
        (1, [(2, 1)]),
    ):
        found = one.find_promising(-1.0, most)
        assert list(zip(*(array.tolist() for array in found), strict=True)) == pairs
    only = one.restrict(np.array([1, 0, 1])).scores.tolist()
    lost = -float("inf")
    np.testing.assert_allclose(only, [[lost, -2], [-1, lost], [lost, 3]])


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


def select_by_torchvision(one, config):
    """Class by class, every window moved: boxes, scores and classes, best first."""
    found = []
    for c in range(one.scores.shape[1]):
        targets = one.features[one.inverse].float() @ one.heads.regression_coef[c]
        targets += one.heads.regression_intercept[c]
        moved = torch.from_numpy(decode(one.boxes.numpy(), targets.numpy(), one.size))
        scores = one.scores[:, c]
        rows = torch.nonzero(scores > config.score_threshold)[:, 0]
        kept = rows[nms(one.boxes[rows], scores[rows], config.nms_iou)][: config.max_detections]
        kept = kept[nms(moved[kept], scores[kept], config.nms_iou)]
        voters = torch.nonzero(scores > config.vote_score)[:, 0]
        weights = (box_iou(moved[kept], moved[voters]) >= config.vote_iou) * (
            scores[voters] - config.vote_score
        )
        total = weights.sum(1, keepdim=True)
        boxes = torch.where(total > 0, weights @ moved[voters] / total, moved[kept])
        near = box_iou(moved[kept], moved[voters]) >= config.support_iou
        votes = (near * (scores[voters] - config.vote_score)).sum(1)
        scores = scores.index_add(0, kept, config.support * torch.log1p(votes))
        found += [(box, scores[k], c) for box, k in zip(boxes.numpy(), kept, strict=True)]
    found.sort(key=lambda one: -one[1])
    boxes, scores, labels = zip(*found, strict=True)
    return np.array(boxes), np.array(scores), np.array(labels)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("level", [-1.3, -0.6])  # of the scores: few or most windows vote
def test_equals_torchvisions_nms_and_a_regression_of_every_window(kind, level):
    torch.manual_seed(0)
    corners = torch.rand(900, 2) * 300
    boxes = torch.cat([corners, corners + 10 + torch.rand(900, 2) * 200], dim=1)
    scores = torch.randn(900, 4) * 0.3 + level
    heads = Heads(
        torch.zeros(4, 3), torch.zeros(4), torch.randn(4, 64, 4) * 0.02, torch.randn(4, 4) * 0.02
    )
    features = torch.rand(600, 64).to(kind)
    inverse = torch.randint(0, 600, (900,))
    one = ScoredWindows(boxes, scores, features, inverse, (500, 480), heads)
    config = make_config(passes=1, max_detections=40, vote_iou=0.45, vote_score=-1.0)
    for support in (0.0, config.support):
        config = replace(config, support=support)
        found = select_detections([one], config)
        wanted = select_by_torchvision(one, config)
        assert len(found.scores) > 80
        np.testing.assert_allclose(found.scores, wanted[1], rtol=0, atol=1e-6 if support else 0)
        np.testing.assert_array_equal(found.labels, wanted[2])
        np.testing.assert_allclose(found.boxes, wanted[0], atol=1e-4)


def exact_nms(boxes, scores, iou):
    """Greedy NMS by fractions: of whole-numbered boxes a slow, exact reading."""
    kept = []
    for row in sorted(range(len(boxes)), key=lambda k: -scores[k]):
        a = boxes[row]
        for other in kept:
            b = boxes[other]
            width = min(a[2], b[2]) - max(a[0], b[0])
            height = min(a[3], b[3]) - max(a[1], b[1])
            both = max(0, width) * max(0, height)
            areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
            if Fraction(both, areas - both) > iou:
                break
        else:
            kept.append(row)
    return kept


def test_boxes_that_overlap_by_exactly_the_threshold_stay():
    """As in the release; in float32 three tenths are above 0.3."""
    random = np.random.default_rng(0)
    ties = 0
    for _ in range(300):
        sides = random.integers(2, 14, (12, 2))
        corners = random.integers(0, 12, (12, 2))
        # Shifted copies whose overlap is 3 / 10 of the union: 6 of 13 columns of each are shared.
        first = np.array([[0, 0, 13, 7], [7, 0, 20, 7]]) * random.integers(1, 9)
        boxes = np.concatenate([first, np.concatenate([corners, corners + sides], 1)])
        scores = random.permutation(len(boxes)).astype(np.float32) + 1
        windows = torch.from_numpy(boxes).float()
        found = select(windows, torch.from_numpy(scores)[:, None], regress=False)
        wanted = exact_nms(boxes.tolist(), scores.tolist(), Fraction(3, 10))
        assert found.boxes.tolist() == boxes[wanted].tolist()
        ties += {0, 1} <= set(wanted)
    assert ties > 20
