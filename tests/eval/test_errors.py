"""Kinds of error: hand-worked cases, a slow reading in plain loops, VOC's own true positives."""

import math

import numpy as np
import pytest

from eval import Detections, EvalError, Truths, analyse_errors, average_precision, evaluate_voc
from eval.errors import KINDS

CLASSES = ("cat", "dog", "car")
ALIKE = (("cat", "dog"), ("horse", "car"))


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def read_slowly(detections, truths, label):
    """Kind and box of each detection of a class, best first, by the words of the docstring."""
    rows = [
        (-found.scores[k], i, k)
        for i, found in enumerate(detections)
        for k in range(len(found))
        if found.labels[k] == label
    ]
    found_boxes, kinds = set(), []
    for _, i, k in sorted(rows, key=lambda row: row[0]):
        box, real = detections[i].boxes[k], truths[i]
        ious = [overlap(box, other) for other in real.boxes]
        same = [(iou, -j) for j, iou in enumerate(ious) if real.labels[j] == label]
        best, which = max(same, default=(0.0, 1))
        of_group = {real.labels[j] for j, iou in enumerate(ious) if iou >= 0.1} - {label}
        if best >= 0.5:
            if real.difficult[-which]:
                continue
            first = (i, -which) not in found_boxes
            found_boxes.add((i, -which))
            kinds.append("correct" if first else "localisation")
        elif best >= 0.1:
            kinds.append("localisation")
        elif of_group & ({0, 1} if label < 2 else set()):
            kinds.append("similar")
        else:
            kinds.append("other" if of_group else "background")
    return kinds, found_boxes


def make_random(random, photographs=12):
    detections, truths = [], []
    for _ in range(photographs):
        count = random.integers(0, 6)
        corners = random.integers(0, 60, (count, 2)).astype(float)
        boxes = np.concatenate([corners, corners + random.integers(5, 40, (count, 2))], axis=1)
        truths.append(Truths(boxes, random.integers(0, 3, count), random.random(count) < 0.2))
        base = np.concatenate([boxes, boxes, np.tile([5.0, 5.0, 30.0, 30.0], (3, 1))])
        moved = base + random.integers(-6, 7, base.shape)
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        labels = np.concatenate([truths[-1].labels, random.integers(0, 3, count + 3)])
        detections.append(Detections(moved, random.permutation(1000)[: len(moved)] / 7, labels))
    return detections, truths


@pytest.mark.parametrize("seed", range(6))
def test_equals_the_slow_reading(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    analysis = analyse_errors(detections, truths, CLASSES, ALIKE)
    seen = set()
    for label, name in enumerate(CLASSES):
        kinds, found = read_slowly(detections, truths, label)
        total = sum(int(((one.labels == label) & ~one.difficult).sum()) for one in truths)
        best = kinds[:total]
        shares = {kind: best.count(kind) / len(best) for kind in KINDS}
        assert analysis.shares[name] == pytest.approx(shares)
        seen |= set(kinds)
        every = list(analysis.found[name].values())
        assert all(math.isnan(share) or 0 <= share <= 1 for share in every)
        assert len(found) <= total
    assert seen == set(KINDS)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_correct_is_a_true_positive_of_voc(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    result = evaluate_voc(detections, truths, CLASSES)
    for label, name in enumerate(CLASSES):
        kinds, _ = read_slowly(detections, truths, label)
        hits = np.cumsum([kind == "correct" for kind in kinds])
        assert (
            result.curves[name].precision.tolist() == (hits / np.arange(1, len(kinds) + 1)).tolist()
        )


@pytest.mark.parametrize("seed", range(3))
def test_worths_are_those_of_lists_without_the_kind(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    worth = analyse_errors(detections, truths, CLASSES, ALIKE).worth
    now = evaluate_voc(detections, truths, CLASSES).mean_ap
    for kind in ("similar", "other", "background"):
        aps = []
        for label in range(len(CLASSES)):
            kinds = [one for one in read_slowly(detections, truths, label)[0] if one != kind]
            total = sum(int(((t.labels == label) & ~t.difficult).sum()) for t in truths)
            hits = np.cumsum([one == "correct" for one in kinds])
            precision = hits / np.arange(1, len(kinds) + 1)
            aps.append(average_precision(precision, hits / total, "11-point"))
        assert worth[kind] == pytest.approx(np.mean(aps) - now)
        assert worth[kind] >= 0
    assert worth["localisation"] >= 0
    assert worth["missed"] >= 0


BOX = [0.0, 0.0, 10.0, 10.0]


def make_case(boxes, scores, labels, truth_boxes, truth_labels, difficult=None):
    flags = np.array(difficult or [False] * len(truth_boxes))
    found = Detections(np.array(boxes, float), np.array(scores, float), np.array(labels))
    return [found], [Truths(np.array(truth_boxes, float), np.array(truth_labels), flags)]


def test_a_misplaced_box_costs_all_that_localisation_is_worth():
    case = make_case([[0, 0, 4, 10]], [0.5], [0], [BOX], [0])
    analysis = analyse_errors(*case, CLASSES)
    assert analysis.shares["cat"]["localisation"] == 1
    assert analysis.worth == {
        "localisation": 1.0,
        "similar": 0.0,
        "other": 0.0,
        "background": 0.0,
        "missed": 0.0,
    }


def test_a_missed_box_costs_its_recall():
    case = make_case([BOX], [0.5], [0], [BOX, [50, 50, 60, 60]], [0, 0])
    worth = analyse_errors(*case, CLASSES).worth
    # With half of the boxes found the 11 points are 6/11.
    assert worth["missed"] == pytest.approx(5 / 11)
    assert worth["localisation"] == 0


def test_a_second_detection_of_a_box_is_of_localisation():
    case = make_case([[50, 50, 60, 60], BOX, BOX], [0.9, 0.8, 0.7], [0] * 3, [BOX] * 2, [0, 1])
    shares = analyse_errors(*case, CLASSES).shares["cat"]
    assert shares["background"] == 1  # of the one best
    case = make_case([BOX, BOX], [0.8, 0.7], [0, 0], [BOX, [50, 50, 60, 60]], [0, 0])
    shares = analyse_errors(*case, CLASSES).shares["cat"]
    assert (shares["correct"], shares["localisation"]) == (0.5, 0.5)


def test_what_lies_on_a_difficult_box_counts_for_nothing():
    far = [50, 50, 60, 60]
    case = make_case([BOX, far], [0.9, 0.8], [0, 0], [BOX, far], [0, 0], [True, False])
    analysis = analyse_errors(*case, CLASSES)
    assert analysis.shares["cat"]["correct"] == 1
    # Near a difficult one it would, were it moved, count for nothing either.
    case = make_case([[0, 0, 4, 10], far], [0.9, 0.8], [0, 0], [BOX, far], [0, 0], [True, False])
    analysis = analyse_errors(*case, CLASSES)
    assert analysis.shares["cat"]["localisation"] == 1
    assert analysis.worth["localisation"] == pytest.approx(0.5)


def test_found_by_size():
    boxes = [[0, 0, k, k] for k in range(1, 11)]
    boxes = [[x1 + 100 * k, y1, x2 + 100 * k, y2] for k, (x1, y1, x2, y2) in enumerate(boxes)]
    labels = [0] * 10
    case = make_case(boxes[5:], range(5), [0] * 5, boxes, labels)
    found = analyse_errors(*case, CLASSES).found
    assert found["cat"] == {"XS": 0, "S": 0, "M": 0.5, "L": 1, "XL": 1}
    assert all(math.isnan(share) for share in found["dog"].values())


def test_input_that_cannot_be_is_refused():
    case = make_case([BOX], [0.5], [0], [BOX], [0])
    with pytest.raises(EvalError, match=r"iou: got 0\.1"):
        analyse_errors(*case, CLASSES, iou=0.1)
    with pytest.raises(EvalError):
        analyse_errors(case[0], [], CLASSES)
