from __future__ import annotations

import math

import numpy as np
import pytest

from eval import Detections, EvalError, Truths, evaluate_coco

KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
KEYS += ["AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def found(boxes, scores, labels=None) -> Detections:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), dtype=np.int64) if labels is None else np.array(labels)
    return Detections(boxes, np.array(scores, dtype=np.float32), labels)


def true(boxes, labels=None, difficult=None) -> Truths:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    labels = np.zeros(len(boxes), dtype=np.int64) if labels is None else np.array(labels)
    return Truths(boxes, labels, np.zeros(len(boxes), bool) if difficult is None else difficult)


def test_perfect(capfd):
    # One small (16² < 32²), one medium (64²), one large (200² > 96²) truth, all found exactly;
    # with one truth per photograph and class, a single detection is enough: AR1 is 1 too.
    boxes = [[0, 0, 16, 16], [10, 10, 74, 74], [5, 5, 205, 205]]
    truths = [true(boxes[:1]), true(boxes[1:2]), true(boxes[2:], [1])]
    detections = [found(boxes[:1], [0.9]), found(boxes[1:2], [0.8]), found(boxes[2:], [0.7], [1])]
    measures = evaluate_coco(detections, truths, ("cat", "dog"), [(300, 300)] * 3)
    assert list(measures) == KEYS
    assert list(measures.values()) == pytest.approx([1.0] * 12)
    assert capfd.readouterr() == ("", "")


def test_hand_worked_overlap():
    # IoU 60·100 / 100·100 = .6: a match at thresholds .50, .55, .60 of the ten: 3/10.
    # 100² is large: no small or medium truth.
    measures = evaluate_coco(
        [found([[0, 0, 100, 60]], [0.9])], [true([[0, 0, 100, 100]])], ("cat",), None
    )
    assert measures["AP"] == pytest.approx(0.3)
    assert measures["AP50"] == pytest.approx(1.0)
    assert measures["AP75"] == 0.0
    assert measures["AR100"] == pytest.approx(0.3)
    assert math.isnan(measures["APs"])
    assert measures["APl"] == pytest.approx(0.3)


def test_hand_worked_ranking():
    # A false positive first, then the hit: precision 1/2 over all recall. A second truth is
    # missed: recall .5, so 51 of the 101 recall points (0 ... .50) see 1/2: 51/202.
    truths = [true([[0, 0, 100, 100], [200, 200, 300, 300]])]
    detections = [found([[400, 0, 500, 100], [0, 0, 100, 100]], [0.9, 0.8])]
    measures = evaluate_coco(detections, truths, ("cat",))
    assert measures["AP"] == pytest.approx(51 / 202)
    # The best detection alone finds nothing.
    assert measures["AR1"] == 0.0
    assert measures["AR10"] == pytest.approx(0.5)


def test_the_first_truth_can_be_matched_twice_over():
    # The truth with the first id must count as matched (COCOeval takes id 0 for no match), so
    # that a duplicate before the second truth's hit costs precision: 1 to recall .5 (51
    # points), then 2/3 (50 points).
    truths = [true([[0, 0, 100, 100], [200, 200, 300, 300]])]
    boxes = [[0, 0, 100, 100], [0, 0, 100, 100], [200, 200, 300, 300]]
    measures = evaluate_coco([found(boxes, [0.9, 0.8, 0.7])], truths, ("cat",))
    assert measures["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_difficult_is_neither_missed_nor_punished():
    truths = [true([[0, 0, 100, 100], [200, 200, 300, 300]], None, np.array([False, True]))]
    both = found([[200, 200, 300, 300], [200, 200, 300, 290], [0, 0, 100, 100]], [0.9, 0.8, 0.7])
    assert evaluate_coco([both], truths, ("cat",))["AP"] == pytest.approx(1.0)
    one = found([[0, 0, 100, 100]], [0.7])
    assert evaluate_coco([one], truths, ("cat",))["AP"] == pytest.approx(1.0)
    # A class of difficult truths alone has no AP and is not in the mean.
    truths = [true([[0, 0, 100, 100], [200, 200, 300, 300]], [0, 1], np.array([False, True]))]
    assert evaluate_coco([one], truths, ("cat", "dog"))["AP"] == pytest.approx(1.0)


def test_empty():
    measures = evaluate_coco([found([], [])], [true([[0, 0, 50, 50]])], ("cat",))
    assert measures["AP"] == 0.0
    assert measures["APm"] == 0.0
    assert math.isnan(measures["APl"])
    nothing = evaluate_coco([found([[0, 0, 5, 5]], [1.0])], [true([])], ("cat",))
    assert list(nothing) == KEYS
    assert all(math.isnan(value) for value in nothing.values())
    assert math.isnan(evaluate_coco([], [], ("cat",))["AP"])


def test_at_most_a_hundred_per_photograph_and_class():
    # A hundred false positives before the hit: it is the 101st and does not count.
    wrong = [[500 + i, 0, 510 + i, 10] for i in range(100)]
    scores = np.linspace(1, 0.1, 101)
    truths = [true([[0, 0, 50, 50]])]
    assert evaluate_coco([found([*wrong, [0, 0, 50, 50]], scores)], truths, ("cat",))["AR100"] == 0
    measures = evaluate_coco([found([*wrong[1:], [0, 0, 50, 50]], scores[1:])], truths, ("cat",))
    assert measures["AR100"] == pytest.approx(1.0)


def test_bad_input():
    detection, truth = found([[0, 0, 5, 5]], [1.0]), true([[0, 0, 5, 5]])
    with pytest.raises(EvalError, match="detections and truths: got 1 and 2"):
        evaluate_coco([detection], [truth, truth], ("cat",))
    with pytest.raises(EvalError, match="detections and sizes: got 1 and 2"):
        evaluate_coco([detection], [truth], ("cat",), [(5, 5)] * 2)
    with pytest.raises(EvalError, match="sizes: got 5"):
        evaluate_coco([detection], [truth], ("cat",), [5])
    with pytest.raises(EvalError, match="label 1"):
        evaluate_coco([found([[0, 0, 5, 5]], [1.0], [1])], [truth], ("cat",))
