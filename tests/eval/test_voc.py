from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from eval import Detections, EvalError, Truths, average_precision, evaluate_voc, find_best_score

CLASSES = ("cat", "dog", "cow")
VOC_CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def found(rows: list[tuple[float, ...]]) -> Detections:
    """x1 y1 x2 y2 score label per row."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def true(rows: list[tuple[float, ...]]) -> Truths:
    """x1 y1 x2 y2 label difficult per row."""
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Truths(table[:, :4], table[:, 4].astype(np.int64), table[:, 5] > 0)


def devkit(detections, truths, label, minoverlap, metric):
    """VOCevaldet.m and VOCap.m, line by line: inclusive boxes, + 1, plain loops."""
    gt, npos = [], 0
    for boxes, labels, difficult in truths:
        objects = []
        for box, of_class, diff in zip(boxes, labels, difficult, strict=True):
            if of_class == label:
                x1, y1, x2, y2 = (float(v) for v in box)
                objects.append({"bb": (x1 + 1, y1 + 1, x2, y2), "diff": bool(diff), "det": False})
                npos += not diff
        gt.append(objects)
    lines = []
    for i, found_here in enumerate(detections):
        for box, score, of_class in found_here:
            if of_class == label:
                x1, y1, x2, y2 = (float(v) for v in box)
                lines.append((i, float(score), (x1 + 1, y1 + 1, x2, y2)))
    lines.sort(key=lambda line: -line[1])
    tp, fp = [0] * len(lines), [0] * len(lines)
    for d, (i, _, bb) in enumerate(lines):
        ovmax, jmax = -math.inf, None
        for j, truth in enumerate(gt[i]):
            bbgt = truth["bb"]
            bi = (
                max(bb[0], bbgt[0]),
                max(bb[1], bbgt[1]),
                min(bb[2], bbgt[2]),
                min(bb[3], bbgt[3]),
            )
            iw, ih = bi[2] - bi[0] + 1, bi[3] - bi[1] + 1
            if iw > 0 and ih > 0:
                ua = (
                    (bb[2] - bb[0] + 1) * (bb[3] - bb[1] + 1)
                    + (bbgt[2] - bbgt[0] + 1) * (bbgt[3] - bbgt[1] + 1)
                    - iw * ih
                )
                ov = iw * ih / ua
                if ov > ovmax:
                    ovmax, jmax = ov, j
        if ovmax >= minoverlap:
            if not gt[i][jmax]["diff"]:
                if not gt[i][jmax]["det"]:
                    tp[d] = 1
                    gt[i][jmax]["det"] = True
                else:
                    fp[d] = 1
        else:
            fp[d] = 1
    if npos == 0:
        return math.nan
    rec, prec, t, f = [], [], 0, 0
    for d in range(len(lines)):
        t, f = t + tp[d], f + fp[d]
        rec.append(t / npos)
        prec.append(t / (t + f) if t + f else 0.0)
    if metric == "11-point":
        ap = 0.0
        for step in np.arange(0, 1.1, 0.1):
            ap += max((p for p, r in zip(prec, rec, strict=True) if r >= step), default=0) / 11
        return ap
    mrec, mpre = [0.0, *rec, 1.0], [0.0, *prec, 0.0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum(
        (mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)) if mrec[i] != mrec[i - 1]
    )


def test_hand_worked_curve():
    # Photograph 0: cats A (0,0,10,10), B (20,0,30,10); photograph 1: cat C (0,0,10,10).
    # Descending: .9 on A (hit), .8 on A again (second, false), .7 on nothing (false),
    # .6 on C (hit). B is never found.
    # hits 1 1 1 2 -> precision 1, 1/2, 1/3, 2/4; recall 1/3 1/3 1/3 2/3.
    detections = [
        found([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 9, 0.8, 0), (50, 50, 60, 60, 0.7, 0)]),
        found([(0, 0, 10, 10, 0.6, 0)]),
    ]
    truths = [true([(0, 0, 10, 10, 0, 0), (20, 0, 30, 10, 0, 0)]), true([(0, 0, 10, 10, 0, 0)])]
    result = evaluate_voc(detections, truths, ("cat",))
    curve = result.curves["cat"]
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 1 / 3, 2 / 4])
    np.testing.assert_allclose(curve.recall, [1 / 3, 1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7, 0.6], rtol=1e-6)
    # t = 0 .1 .2 .3 -> 1; t = .4 .5 .6 -> 1/2; t = .7 ... 1 -> 0: (4 + 1.5) / 11.
    assert result.ap["cat"] == pytest.approx(5.5 / 11)
    # Monotone precision: 1 up to recall 1/3, 1/2 from there to 2/3: 1/3 + 1/6.
    area = evaluate_voc(detections, truths, ("cat",), metric="area")
    assert area.ap["cat"] == pytest.approx(0.5)
    assert area.metric == "area"


def test_difficult_counts_neither_way():
    # The first two lie on a difficult cat and leave no point; the third is the only hit.
    detections = [found([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0), (20, 0, 30, 10, 0.7, 0)])]
    truths = [true([(0, 0, 10, 10, 0, 1), (20, 0, 30, 10, 0, 0)])]
    result = evaluate_voc(detections, truths, ("cat",))
    assert result.ap["cat"] == 1.0
    np.testing.assert_array_equal(result.curves["cat"].recall, [1.0])


def test_the_largest_overlap_decides_even_when_difficult_or_taken():
    # The detection (0,0,10,10) overlaps the difficult (0,0,10,10) by 1 and the normal
    # (0,0,10,8) by .8: it belongs to the difficult one, so the normal one is not found.
    detections = [found([(0, 0, 10, 10, 0.9, 0)])]
    truths = [true([(0, 0, 10, 8, 0, 0), (0, 0, 10, 10, 0, 1)])]
    result = evaluate_voc(detections, truths, ("cat",))
    assert result.ap["cat"] == 0.0
    assert len(result.curves["cat"].recall) == 0
    # Taken: both detections are nearest to the same truth; the second does not fall back on
    # the other truth, which it overlaps by .8 too. Precision 1, 1/2; recall 1/2, 1/2.
    detections = [found([(0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0)])]
    truths = [true([(0, 0, 10, 10, 0, 0), (0, 0, 10, 8, 0, 0)])]
    curve = evaluate_voc(detections, truths, ("cat",)).curves["cat"]
    np.testing.assert_array_equal(curve.precision, [1, 0.5])
    np.testing.assert_array_equal(curve.recall, [0.5, 0.5])


@pytest.mark.parametrize(("height", "expected"), [(5, 1.0), (4.999, 0.0)])
def test_half_an_overlap_is_enough(height, expected):
    # (0,0,10,5) in (0,0,10,10): 50 / 100, exactly the threshold.
    detections = [found([(0, 0, 10, height, 0.9, 0)])]
    assert evaluate_voc(detections, [true([(0, 0, 10, 10, 0, 0)])], ("cat",)).ap["cat"] == expected


def test_threshold_is_the_callers():
    # 60 / 100.
    detections, truths = [found([(0, 0, 10, 6, 0.9, 0)])], [true([(0, 0, 10, 10, 0, 0)])]
    assert evaluate_voc(detections, truths, ("cat",), iou=0.6).ap["cat"] == 1.0
    assert evaluate_voc(detections, truths, ("cat",), iou=0.61).ap["cat"] == 0.0


def test_classes_and_photographs_are_kept_apart():
    # A cat at a dog's place, and a dog at the right place in the wrong photograph.
    detections = [found([(0, 0, 10, 10, 0.9, 0)]), found([(0, 0, 10, 10, 0.9, 1)])]
    truths = [true([(0, 0, 10, 10, 1, 0)]), true([(0, 0, 10, 10, 0, 0)])]
    result = evaluate_voc(detections, truths, ("cat", "dog"))
    assert result.ap == {"cat": 0.0, "dog": 0.0}


def test_absent_class_is_nan_and_outside_the_mean():
    # cat: found. dog: true but no detection. cow: a detection, and only a difficult truth.
    detections = [found([(0, 0, 10, 10, 0.9, 0), (5, 5, 9, 9, 0.9, 2)])]
    truths = [true([(0, 0, 10, 10, 0, 0), (0, 0, 10, 10, 1, 0), (20, 20, 40, 40, 2, 1)])]
    result = evaluate_voc(detections, truths, CLASSES)
    assert result.ap["cat"] == 1.0
    assert result.ap["dog"] == 0.0
    assert math.isnan(result.ap["cow"])
    assert result.mean_ap == 0.5
    assert np.isnan(result.curves["cow"].recall).all()


@pytest.mark.parametrize("photographs", [0, 1])
def test_nothing_at_all(photographs):
    result = evaluate_voc([found([])] * photographs, [true([])] * photographs, CLASSES)
    assert math.isnan(result.mean_ap)
    assert all(math.isnan(ap) for ap in result.ap.values())


def test_boxes_without_area_overlap_nothing():
    # Inverted, flat, and flat upon a flat truth (0 / 0): false positives, no warnings.
    detections = [found([(9, 9, 1, 1, 0.9, 0), (3, 3, 3, 8, 0.8, 0), (50, 5, 50, 9, 0.7, 0)])]
    truths = [true([(0, 0, 10, 10, 0, 0), (50, 5, 50, 9, 0, 0)])]
    curve = evaluate_voc(detections, truths, ("cat",)).curves["cat"]
    np.testing.assert_array_equal(curve.precision, [0, 0, 0])


def test_equal_scores_keep_the_given_order():
    hit, miss = (0, 0, 10, 10, 0.5, 0), (50, 50, 60, 60, 0.5, 0)
    truths = [true([(0, 0, 10, 10, 0, 0)])]
    assert evaluate_voc([found([hit, miss])], truths, ("cat",)).ap["cat"] == 1.0
    assert evaluate_voc([found([miss, hit])], truths, ("cat",)).ap["cat"] == 0.5


def test_eleven_points_round_as_the_devkit():
    # 3 of 10 found with precision 1: recall .1 .2 .3. The fourth point is 3 * .1 =
    # .30000000000000004 > .3, so only t = 0, .1, .2 are reached.
    assert average_precision(np.ones(3), np.arange(1, 4) / 10, "11-point") == pytest.approx(3 / 11)
    assert average_precision(np.ones(4), np.arange(1, 5) / 10, "11-point") == pytest.approx(5 / 11)


def test_average_precision_of_no_points():
    assert average_precision(np.zeros(0), np.zeros(0), "11-point") == 0.0
    assert average_precision(np.zeros(0), np.zeros(0), "area") == 0.0


def brute_best_score(result):
    """Try every score on every class, counting."""
    best = (math.nan, 0.0)
    for score in sorted({s for curve in result.curves.values() for s in curve.scores.tolist()}):
        f1 = []
        for name, curve in result.curves.items():
            if math.isnan(result.ap[name]):
                continue
            rows = [i for i, s in enumerate(curve.scores) if s >= score]
            p, r = (curve.precision[rows[-1]], curve.recall[rows[-1]]) if rows else (0.0, 0.0)
            f1.append(2 * p * r / (p + r) if p + r else 0.0)
        if f1 and np.mean(f1) > best[1] + 1e-12:
            best = (score, float(np.mean(f1)))
    return best


@pytest.mark.parametrize("seed", range(8))
def test_best_score_by_brute_force(seed):
    result = evaluate_voc(*random_scene(np.random.default_rng(seed)), CLASSES)
    score, f1 = find_best_score(result)
    expected = brute_best_score(result)
    assert f1 == pytest.approx(expected[1])
    assert score == expected[0] or f1 == 0


def test_best_score_by_hand():
    """Right at 0.9 and 0.4, wrong at 0.6 and 0.2: F1 of 2/3, 1/2, 4/5 and 2/3."""
    detections = [found([(0, 0, 9, 9, s, 0)]) for s in (0.9, 0.4)]
    detections += [found([(50, 50, 59, 59, s, 0)]) for s in (0.6, 0.2)]
    truths = [true([(0, 0, 9, 9, 0, 0)])] * 2 + [true([])] * 2
    result = evaluate_voc(detections, truths, CLASSES)
    score, f1 = find_best_score(result)
    assert score == pytest.approx(0.4)
    assert f1 == pytest.approx(0.8)
    score, f1 = find_best_score(evaluate_voc([found([])], truths[:1], CLASSES))
    assert math.isnan(score)
    assert f1 == 0


def random_scene(rng: np.random.Generator) -> tuple[list[Detections], list[Truths]]:
    """Few places, few scores: many ties, duplicates, exact halves and absent classes."""
    detections, truths = [], []
    for _ in range(int(rng.integers(1, 6))):
        for rows, counts in ((detections, (0, 15)), (truths, (0, 6))):
            n = int(rng.integers(*counts))
            corner = rng.integers(0, 5, (n, 2)) * 2
            boxes = np.hstack([corner, corner + rng.integers(1, 6, (n, 2)) * 2]).astype(np.float32)
            labels = rng.integers(0, 2, n)
            if rows is detections:
                scores = (rng.integers(0, 6, n) / 5).astype(np.float32)
                rows.append(Detections(boxes, scores, labels))
            else:
                rows.append(Truths(boxes, labels, rng.random(n) < 0.3))
    return detections, truths


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.5, 0.75]))
def test_equals_the_devkit_in_plain_loops(seed, iou):
    detections, truths = random_scene(np.random.default_rng(seed))
    for metric in ("11-point", "area"):
        result = evaluate_voc(detections, truths, CLASSES, iou=iou, metric=metric)
        expected = [devkit(detections, truths, c, iou, metric) for c in range(3)]
        np.testing.assert_allclose([result.ap[c] for c in CLASSES], expected, rtol=1e-12)
        known = [ap for ap in expected if not math.isnan(ap)]
        np.testing.assert_allclose(
            result.mean_ap, sum(known) / len(known) if known else math.nan, rtol=1e-12
        )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_area_against_scikit_learn(hits):
    # scikit-learn's AP sums precision over the steps of recall without making it monotone: it
    # is at most the area, and equal to it once the curve is replaced by its monotone envelope.
    hits = np.array(hits)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall = np.cumsum(hits) / hits.sum()
    area = average_precision(precision, recall, "area")
    plain = average_precision_score(hits, -np.arange(len(hits)))
    assert area >= plain - 1e-12
    envelope = np.array([precision[i:].max() for i in range(len(precision))])
    assert area == pytest.approx((np.diff(recall, prepend=0) * envelope).sum())
    if (np.diff(precision[hits]) <= 0).all():
        assert area == pytest.approx(plain)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_later_false_positive_changes_nothing(hits):
    hits = np.array(hits)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    recall = np.cumsum(hits) / (hits.sum() + 2)
    for metric in ("11-point", "area"):
        longer = average_precision(
            np.append(precision, precision[-1] * len(hits) / (len(hits) + 1)),
            np.append(recall, recall[-1]),
            metric,
        )
        assert longer == pytest.approx(average_precision(precision, recall, metric), rel=1e-12)


BOX = np.array([[0, 0, 10, 10]], dtype=np.float32)
ONE, NIL = np.ones(1, dtype=np.float32), np.zeros(1, dtype=np.int64)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ((BOX[0], ONE, NIL), "boxes are float32 of shape"),
        ((BOX[:, :3], ONE, NIL), "boxes are float32 of shape"),
        ((BOX, np.ones(2), NIL), "scores have shape"),
        ((BOX, ONE, np.zeros(0, dtype=np.int64)), "labels have shape"),
        ((BOX, ONE, ONE), "labels have dtype float32, expected integers"),
        ((BOX, ONE, NIL + 3), "photograph 1: label 3, expected 0 to 2"),
        ((BOX, ONE, NIL - 1), "photograph 1: label -1"),
        ((BOX * np.nan, ONE, NIL), "photograph 1: box not finite"),
        ((BOX, ONE * np.inf, NIL), "photograph 1: score not finite"),
    ],
)
def test_bad_detections(columns, message):
    good = Detections(BOX, ONE, NIL)
    truth = Truths(BOX, NIL, np.zeros(1, dtype=bool))
    with pytest.raises(EvalError, match=message):
        evaluate_voc([good, Detections(*columns)], [truth, truth], CLASSES)


def test_a_tuple_is_no_detections():
    truth = Truths(BOX, NIL, np.zeros(1, dtype=bool))
    with pytest.raises(EvalError, match="photograph 0: got tuple, expected Detections"):
        evaluate_voc([(BOX, ONE, NIL)], [truth], CLASSES)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (Truths(BOX, NIL, NIL), "difficult has dtype int64, expected bool"),
        (Truths(BOX[:, ::-1], NIL, NIL > 0), "x2 < x1"),
        (Truths(BOX, NIL + 9, NIL > 0), "label 9"),
        (Truths(BOX + np.inf, NIL, NIL > 0), "box not finite"),
        (Truths(BOX, np.zeros(2, dtype=np.int64), NIL > 0), "labels have shape"),
    ],
)
def test_bad_truths(truth, message):
    with pytest.raises(EvalError, match=message):
        evaluate_voc([Detections(BOX, ONE, NIL)], [truth], CLASSES)


def test_bad_arguments():
    detections, truths = [Detections(BOX, ONE, NIL)], [Truths(BOX, NIL, NIL > 0)]
    with pytest.raises(EvalError, match="1 and 2 entries"):
        evaluate_voc(detections, truths * 2, CLASSES)
    with pytest.raises(EvalError, match="metric: got 'voc'"):
        evaluate_voc(detections, truths, CLASSES, metric="voc")
    for iou in (0, 1.1, math.nan):
        with pytest.raises(EvalError, match="iou"):
            evaluate_voc(detections, truths, CLASSES, iou=iou)
    for classes in ((), "cat", ("cat", "cat"), ("",)):
        with pytest.raises(EvalError, match="classes"):
            evaluate_voc(detections, truths, classes)
    for precision, recall in (([1], [1, 1]), ([math.nan], [1]), ([1, 1], [1, 0.5])):
        with pytest.raises(EvalError):
            average_precision(np.array(precision), np.array(recall), "area")


def read_truths(root: Path, names: list[str]) -> list[Truths]:
    truths = []
    for name in names:
        rows = []
        for entry in ElementTree.parse(root / "Annotations" / f"{name}.xml").iter("object"):
            box = [float(entry.findtext(f"bndbox/{k}")) for k in ("xmin", "ymin", "xmax", "ymax")]
            label = VOC_CLASSES.index(entry.findtext("name"))
            rows.append((box[0] - 1, box[1] - 1, *box[2:], label, int(entry.findtext("difficult"))))
        truths.append(true(rows))
    return truths


@pytest.mark.parametrize("metric", ["11-point", "area"])
def test_perfect_and_perturbed_detections_of_real_photographs(mini_voc, metric):
    names = (mini_voc / "ImageSets/Main/test.txt").read_text().split()
    truths = read_truths(mini_voc, names)
    perfect = [
        Detections(t.boxes, np.ones(len(t.boxes), dtype=np.float32), t.labels) for t in truths
    ]
    result = evaluate_voc(perfect, truths, VOC_CLASSES, metric=metric)
    assert result.ap == pytest.approx(dict.fromkeys(VOC_CLASSES, 1.0), abs=1e-12)
    rng = np.random.default_rng(7)
    moved = []
    for t in truths:
        boxes = np.repeat(t.boxes, 4, axis=0)
        shift = rng.normal(0, 0.15, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        scores = rng.integers(0, 50, len(boxes)) / 50
        moved.append(Detections((boxes + shift).astype(np.float32), scores, np.repeat(t.labels, 4)))
    result = evaluate_voc(moved, truths, VOC_CLASSES, metric=metric)
    expected = [devkit(moved, truths, c, 0.5, metric) for c in range(20)]
    np.testing.assert_allclose(list(result.ap.values()), expected, rtol=1e-12)
    assert 0.05 < result.mean_ap < 0.95
