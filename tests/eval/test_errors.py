"""Kinds of error: hand-worked cases, a slow reading in plain loops, VOC's own true positives."""

import itertools
import math

import numpy as np
import pytest

from eval import (
    Detections,
    EvalError,
    Truths,
    analyse_errors,
    average_precision,
    count_confusions,
    evaluate_voc,
    tell_kinds,
)
from eval.errors import KINDS, SIMILAR_IN_VOC, SIZES, VOC_CLASSES

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


def count_boxes(truths, label):
    return sum(int(((one.labels == label) & ~one.difficult).sum()) for one in truths)


def find_slowly(detections, truths, label):
    """Areas of a class's boxes that are not difficult, each with whether it is overlapped."""
    pairs = []
    for found, real in zip(detections, truths, strict=True):
        for j, box in enumerate(real.boxes):
            if real.labels[j] == label and not real.difficult[j]:
                ious = [overlap(one.box, box) for one in found if one.label == label]
                area = (box[2] - box[0]) * (box[3] - box[1])
                pairs.append((area, max(ious, default=0) >= 0.5))
    return pairs


def correct_slowly(detections, truths, label):
    """Whether each detection left is a hit, were all of those near a box moved onto it."""
    rows = [
        (-one.score, i, one.box)
        for i, found in enumerate(detections)
        for one in found
        if one.label == label
    ]
    taken, hits = set(), []
    for _, i, box in sorted(rows, key=lambda row: row[0]):
        real = truths[i]
        same = [
            (overlap(box, other), -j)
            for j, other in enumerate(real.boxes)
            if real.labels[j] == label
        ]
        best, which = max(same, default=(0.0, 1))
        if best < 0.1:
            hits.append(False)
        elif not real.difficult[-which] and (i, -which) not in taken:
            taken.add((i, -which))
            hits.append(True)
    return hits


def measure(hits, total, metric):
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return average_precision(precision, np.cumsum(hits) / total, metric)


@pytest.mark.parametrize("seed", range(4))
def test_each_detection_is_told_as_the_slow_reading_does(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    told = tell_kinds(detections, truths, CLASSES, ALIKE)
    assert [len(kinds) for kinds in told.kinds] == [len(found) for found in detections]
    for label in range(len(CLASSES)):
        rows = [
            (-found.scores[k], told.kinds[i][k])
            for i, found in enumerate(detections)
            for k in range(len(found))
            if found.labels[k] == label
        ]
        ours = [KINDS[kind] for _, kind in sorted(rows, key=lambda row: row[0]) if kind >= 0]
        assert ours == read_slowly(detections, truths, label)[0]
        pairs = [
            (i, j)
            for i, real in enumerate(truths)
            for j in range(len(real.boxes))
            if real.labels[j] == label and not real.difficult[j]
        ]
        hit = [told.found[i][j] for i, j in pairs]
        assert sum(hit) == sum(found for _, found in find_slowly(detections, truths, label))


@pytest.mark.parametrize("seed", range(4))
def test_confusions_account_for_every_box_and_detection(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    counts = count_confusions(detections, truths, len(CLASSES))
    for label in range(len(CLASSES)):
        assert counts[label].sum() == count_boxes(truths, label)
    taken = counts[:, :-1].sum()
    total = sum(map(len, detections))
    difficult = sum(int(one.difficult.sum()) for one in truths)
    assert total - difficult <= taken <= total and counts[-1, -1] == 0
    perfect = [Detections(one.boxes, np.ones(len(one.boxes)), one.labels) for one in truths]
    own = count_confusions(perfect, truths, len(CLASSES), 0.999)
    assert (own == np.diag(np.diag(own))).all()


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
def test_kinds_equal_the_slow_reading(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    analysis = analyse_errors(detections, truths, CLASSES, ALIKE)
    seen = set()
    for label, name in enumerate(CLASSES):
        kinds, _ = read_slowly(detections, truths, label)
        total = count_boxes(truths, label)
        assert analysis.boxes[name] == total
        best = kinds[:total]
        false = [kind for kind in best if kind != "correct"]
        for shares, counted, names in (
            (analysis.shares, best, KINDS),
            (analysis.false_shares, false, KINDS[1:]),
            (analysis.all_shares, kinds, KINDS),
        ):
            expected = {kind: counted.count(kind) / len(counted) for kind in names}
            assert shares[name] == pytest.approx(expected)
            assert sum(shares[name].values()) == pytest.approx(1)
        seen |= set(kinds)
    assert seen == set(KINDS)


@pytest.mark.parametrize("seed", range(6))
def test_found_boxes_equal_the_slow_reading(seed):
    detections, truths = make_random(np.random.default_rng(seed), photographs=40)
    analysis = analyse_errors(detections, truths, CLASSES, ALIKE)
    for label, name in enumerate(CLASSES):
        pairs = find_slowly(detections, truths, label)
        hits = [hit for _, hit in sorted(pairs, key=lambda pair: pair[0])]
        # To the nearest whole box, a half up.
        cuts = [(2 * tenths * len(hits) + 10) // 20 for tenths in (0, 1, 3, 7, 9, 10)]
        parts = [hits, *(hits[a:b] for a, b in itertools.pairwise(cuts))]
        expected = [sum(part) / len(part) for part in parts]
        assert list(analysis.found[name]) == ["all", *SIZES]
        assert list(analysis.found[name].values()) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_correct_is_a_true_positive_of_voc(seed):
    detections, truths = make_random(np.random.default_rng(seed))
    analysis = analyse_errors(detections, truths, CLASSES, ALIKE)
    for metric in ("11-point", "area"):
        result = evaluate_voc(detections, truths, CLASSES, metric=metric)
        assert analysis.ap[metric]["now"] == result.ap
        assert analysis.mean_ap[metric]["now"] == result.mean_ap
    for label, name in enumerate(CLASSES):
        curve = result.curves[name]
        correct = analysis.all_shares[name]["correct"] * len(curve.scores)
        assert correct == pytest.approx(curve.recall[-1] * count_boxes(truths, label))
        kinds, _ = read_slowly(detections, truths, label)
        hits = np.cumsum([kind == "correct" for kind in kinds])
        assert curve.precision.tolist() == (hits / np.arange(1, len(kinds) + 1)).tolist()


@pytest.mark.parametrize("metric", ["11-point", "area"])
@pytest.mark.parametrize("seed", range(3))
def test_ap_is_that_of_lists_without_the_kind(seed, metric):
    detections, truths = make_random(np.random.default_rng(seed))
    analysis = analyse_errors(detections, truths, CLASSES, ALIKE)
    ap, mean_ap = analysis.ap[metric], analysis.mean_ap[metric]
    for label, name in enumerate(CLASSES):
        kinds, _ = read_slowly(detections, truths, label)
        total = count_boxes(truths, label)
        for kind in KINDS[1:]:
            gone = "localisation removed" if kind == "localisation" else kind
            hits = [one == "correct" for one in kinds if one != kind]
            assert ap[gone][name] == pytest.approx(measure(hits, total, metric))
        corrected = correct_slowly(detections, truths, label)
        assert ap["localisation"][name] == pytest.approx(measure(corrected, total, metric))
        hits = [one == "correct" for one in kinds]
        found = sum(hit for _, hit in find_slowly(detections, truths, label))
        assert ap["missed"][name] == pytest.approx(measure(hits, found, metric))
        for gone, values in ap.items():
            assert values[name] >= ap["now"][name], gone
    for gone, values in ap.items():
        assert mean_ap[gone] == pytest.approx(sum(values.values()) / len(CLASSES))


def test_worths_are_gains_of_the_11_point_mean():
    analysis = analyse_errors(*make_random(np.random.default_rng(0)), CLASSES, ALIKE)
    means = analysis.mean_ap["11-point"]
    assert set(analysis.worth) == {*KINDS[1:], "missed"}
    for cause, gain in analysis.worth.items():
        assert gain == pytest.approx(means[cause] - means["now"])
        assert gain > 0


def test_without_any_false_detection_the_area_is_the_recall():
    detections, truths = make_random(np.random.default_rng(0))
    ap = analyse_errors(detections, truths, CLASSES, ALIKE).ap["area"]["false"]
    curves = evaluate_voc(detections, truths, CLASSES).curves
    assert ap == pytest.approx({name: curve.recall[-1] for name, curve in curves.items()})


BOX = [0.0, 0.0, 10.0, 10.0]


def make_case(boxes, scores, labels, truth_boxes, truth_labels, difficult=None):
    flags = np.array(difficult or [False] * len(truth_boxes))
    found = Detections(np.array(boxes, float), np.array(scores, float), np.array(labels))
    return [found], [Truths(np.array(truth_boxes, float), np.array(truth_labels), flags)]


@pytest.mark.parametrize(
    ("truth_boxes", "truth_labels", "kind"),
    [
        ([[0, 0, 5, 10]], [0], "correct"),  # an overlap of 0.5
        ([[0, 0, 4.9, 10]], [0], "localisation"),
        ([[0, 0, 1, 10]], [0], "localisation"),  # of 0.1
        ([[0, 0, 0.9, 10]], [0], "background"),
        ([[0, 0, 1, 10], BOX], [0, 1], "localisation"),  # its own class comes first
        ([BOX], [1], "similar"),
        ([[0, 0, 1, 10]], [1], "similar"),
        ([[0, 0, 1, 10], BOX], [1, 2], "similar"),  # a similar one second
        ([BOX], [2], "other"),
        ([[0, 0, 0.9, 10]], [2], "background"),
        ([[0, 0, 0.9, 10], BOX], [0, 2], "other"),
        ([[20, 0, 30, 10]], [0], "background"),
        ([], [], "background"),
    ],
)
def test_kind_of_one_detection(truth_boxes, truth_labels, kind):
    boxes = np.array(truth_boxes, float).reshape(-1, 4)
    case = make_case([BOX], [0.5], [0], boxes, np.array(truth_labels, int))
    analysis = analyse_errors(*case, CLASSES, ALIKE)
    assert analysis.all_shares["cat"] == {one: float(one == kind) for one in KINDS}


def test_without_groups_every_other_class_is_other():
    case = make_case([BOX], [0.5], [0], [BOX], [1])
    assert analyse_errors(*case, CLASSES).all_shares["cat"]["other"] == 1


def test_a_difficult_box_of_another_class_counts():
    case = make_case([BOX], [0.5], [0], [BOX], [2], [True])
    assert analyse_errors(*case, CLASSES).all_shares["cat"]["other"] == 1


def test_localisation_corrected_and_removed():
    far = [50, 50, 60, 60]
    # A poor box, then the right one of the same object, then nothing, then the second object's.
    boxes = [[0, 0, 4, 10], BOX, [80, 80, 90, 90], far]
    case = make_case(boxes, [0.9, 0.8, 0.7, 0.6], [0] * 4, [BOX, far], [0, 0])
    ap = {gone: ap["cat"] for gone, ap in analyse_errors(*case, CLASSES).ap["area"].items()}
    assert ap["now"] == pytest.approx(1 / 2)  # hits at ranks 2 and 4
    assert ap["localisation removed"] == pytest.approx((1 + 2 / 3) / 2)
    assert ap["localisation"] == pytest.approx((1 + 2 / 3) / 2)
    case = make_case(boxes[:1], [0.9], [0], [BOX, far], [0, 0])
    ap = {gone: ap["cat"] for gone, ap in analyse_errors(*case, CLASSES).ap["area"].items()}
    assert (ap["now"], ap["localisation removed"], ap["localisation"]) == (0, 0, 0.5)


def test_a_box_beside_the_one_that_a_detection_is_given_to_is_not_missed():
    case = make_case([BOX], [0.5], [0], [BOX, [0, 0, 10, 8]], [0, 0])
    analysis = analyse_errors(*case, CLASSES)
    assert analysis.found["cat"]["all"] == 1
    assert analysis.worth["missed"] == 0
    assert analysis.ap["area"]["now"]["cat"] == 0.5


def test_a_class_without_boxes_has_no_ap():
    case = make_case([BOX], [0.5], [1], [BOX], [0])
    analysis = analyse_errors(*case, CLASSES)
    assert analysis.boxes == {"cat": 1, "dog": 0, "car": 0}
    assert math.isnan(analysis.ap["area"]["now"]["dog"])
    # None found: without the missed one nothing would be left to measure.
    assert analysis.ap["area"]["missed"]["cat"] == 0
    assert analysis.mean_ap["area"]["now"] == 0
    empty = analyse_errors([], [], CLASSES)
    assert all(math.isnan(gain) for gain in empty.worth.values())


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
    assert found["cat"] == {"all": 0.5, "XS": 0, "S": 0, "M": 0.5, "L": 1, "XL": 1}
    assert all(math.isnan(share) for share in found["dog"].values())


def test_input_that_cannot_be_is_refused():
    case = make_case([BOX], [0.5], [0], [BOX], [0])
    with pytest.raises(EvalError, match=r"iou: got 0\.1"):
        analyse_errors(*case, CLASSES, iou=0.1)
    with pytest.raises(EvalError):
        analyse_errors(case[0], [], CLASSES)


def test_groups_are_of_vocs_twenty_classes():
    assert len(VOC_CLASSES) == 20
    assert {name for group in SIMILAR_IN_VOC for name in group} < VOC_CLASSES
