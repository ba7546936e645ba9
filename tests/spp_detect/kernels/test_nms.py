"""NMS against torchvision's, and the vote against loops."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from spp_detect.kernels import class_nms
from spp_detect.kernels.class_nms import sum_voters, suppress_classes
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


def make_classes(count, seed, own):
    """Boxes of three classes, the same or each its own, and scores with ties and missing ones."""
    rng = np.random.default_rng(seed)
    boxes = [random_boxes(count, rng).astype(np.float64) for _ in range(3)]
    scores = rng.integers(-9, 9, (3, count)).astype(np.float32)
    scores[rng.random((3, count)) < 0.2] = -np.inf
    return (np.stack(boxes) if own else boxes[0]), scores


def suppress_each(boxes, scores, least, iou, most):
    """Class by class on the CPU: rows, -1 behind the last."""
    wanted = np.full((len(scores), most), -1)
    for c, own in enumerate(scores):
        kept = suppress(boxes if boxes.ndim == 2 else boxes[c], own, least, iou, most)
        wanted[c, : len(kept)] = kept
    return wanted


@settings(max_examples=150, deadline=None)
@given(
    count=st.integers(1, 60),
    iou=st.sampled_from([0.1, 0.3, 0.5, 0.99]),
    most=st.sampled_from([1, 5, 70]),
    own=st.booleans(),
    seed=st.integers(0, 999_999),
)
def test_all_classes_at_once(count, iou, most, own, seed):
    boxes, scores = make_classes(count, seed, own)
    found = suppress_classes(torch.from_numpy(boxes), torch.from_numpy(scores), -5.0, iou, most)
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found, suppress_each(boxes, scores, -5.0, iou, most))


@pytest.fixture
def interpreted_nms(interpreted_gpu, monkeypatch):
    import triton.language as tl
    from triton.runtime.interpreter import InterpretedFunction

    from spp_detect.kernels import gpu_nms

    # Triton's own functions were decorated for a GPU when it was imported.
    monkeypatch.setattr(tl, "max", InterpretedFunction(tl.max.fn))
    return importlib.reload(gpu_nms)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("count", "most"), [(1, 3), (30, 4), (64, 100), (700, 20)])
def test_the_gpus_kernel(interpreted_nms, count, most, own):
    boxes, scores = make_classes(count, count, own)
    given = torch.from_numpy(boxes), torch.from_numpy(scores)
    found = interpreted_nms.suppress_on_gpu(*given, -5.0, 0.3, most)
    np.testing.assert_array_equal(found, suppress_each(boxes, scores, -5.0, 0.3, most))


def test_the_gpus_kernel_keeps_a_box_that_overlaps_by_just_the_limit(interpreted_nms):
    """In float32, 0.3 is more than 0.3: then also what overlaps by a little more would stay."""
    corners = [[0, 0, 13, 1], [7, 0, 20, 1], [7 - 1e-9, 0, 20 - 1e-9, 1]]
    boxes = torch.tensor(corners, dtype=torch.float64)
    for rows in ([0, 1], [0, 2]):
        limit = 6 / 20
        scores = torch.tensor([[2.0, 1.0]])
        kept = suppress(boxes[rows].numpy(), scores[0].numpy(), 0.0, limit, 2)
        found = interpreted_nms.suppress_on_gpu(boxes[rows], scores, 0.0, limit, 2)
        assert found[0, : len(kept)].tolist() == kept.tolist()
        assert len(kept) == (2 if rows == [0, 1] else 1)


def test_all_classes_without_boxes():
    none = torch.zeros((0, 4), dtype=torch.float64), torch.zeros((2, 0))
    assert suppress_classes(*none, 0.0, 0.3, 2).tolist() == [[-1, -1]] * 2


COMPILE = """
import triton
from spp_detect.kernels import gpu_nms

pointers = {"boxes": "*fp64", "scores": "*fp32", "limit": "*fp64", "kept": "*i64"}
numbers = dict.fromkeys(("count", "own", "most"), "i32")
signature = pointers | numbers | {"BLOCK": "constexpr"}
for capability in (75, 90):
    source = triton.compiler.ASTSource(gpu_nms._suppress, signature, {"BLOCK": 8192})
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    assert triton.compile(source, target=target, options={"num_warps": 16}).asm["cubin"]
"""


def test_the_gpus_kernel_compiles_without_a_gpu():
    """In a process of its own: Triton's interpreter leaves the language changed in this one."""
    pytest.importorskip("triton")
    subprocess.run([sys.executable, "-c", COMPILE], check=True, capture_output=True)


@pytest.mark.gpu
def test_on_the_gpu():
    boxes, scores = make_classes(5000, 0, own=False)
    given = torch.from_numpy(boxes).cuda(), torch.from_numpy(scores).cuda()
    found = suppress_classes(*given, -5.0, 0.3, 100)
    np.testing.assert_array_equal(found.cpu(), suppress_each(boxes, scores, -5.0, 0.3, 100))


@pytest.mark.parametrize("most", [1, 1 << 24])
def test_votes_of_all_classes(monkeypatch, most):
    monkeypatch.setattr(class_nms, "MOST_OVERLAPS", most)  # class by class
    rng = np.random.default_rng(0)
    boxes = np.stack([random_boxes(9, rng) for _ in range(3)])
    for voters in (random_boxes(40, rng), np.stack([random_boxes(40, rng) for _ in range(3)])):
        weights = rng.random((3, 40)).astype(np.float32) * rng.integers(0, 2, (3, 40))
        weights = weights.astype(np.float32)
        given = [torch.from_numpy(one) for one in (boxes, voters, weights)]
        totals, corners = sum_voters(*given, 0.3)
        for c in range(3):
            own = voters if voters.ndim == 2 else voters[c]
            heavy = weights[c] > 0
            wanted, sums = vote_slowly(boxes[c], own[heavy], weights[c][heavy], 0.3)
            np.testing.assert_allclose(totals[c], sums, rtol=1e-6)
            voted = np.where(sums[:, None] > 0, corners[c] / totals[c][:, None], boxes[c])
            np.testing.assert_allclose(voted, wanted, rtol=1e-5)
