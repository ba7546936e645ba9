from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from eval import (
    Detections,
    EvalError,
    Truths,
    evaluate_coco,
    evaluate_voc,
    plot_curves,
    read_coco_results,
    read_comp,
    write_coco_results,
    write_comp,
)

NAMES, CLASSES = ("000005", "000007"), ("cat", "dining table", "dog")


def found(rows) -> Detections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


TWO = [
    found([(262, 210, 324, 339, 0.5, 0), (0, 0, 1.5, 2, -0.25, 2)]),
    found([(10, 20, 30, 40, 0.75, 0)]),
]


def assert_same(first: list[Detections], second: list[Detections]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one == other
        for column, dtype in ((one.boxes, "f8"), (one.scores, "f8"), (one.labels, "i8")):
            assert column.dtype == dtype


def random_detections(rng: np.random.Generator, photographs: int) -> list[Detections]:
    """Scores of either precision, a photograph at a time."""
    detections = []
    for _ in range(photographs):
        dtype = rng.choice([np.float32, np.float64])
        n = int(rng.integers(0, 6))
        corner = rng.random((n, 2)) * 500
        boxes = np.hstack([corner, corner + rng.random((n, 2)) * 100]).astype(np.float32)
        # By class, as read_comp gives them.
        labels = np.sort(rng.integers(0, 3, n))
        scores = (rng.normal(size=n) * 10.0 ** rng.integers(-8, 8)).astype(dtype)
        detections.append(Detections(boxes, scores, labels))
    return detections


def test_any_class_name_makes_a_file(tmp_path):
    classes = ["car/truck", "car%2Ftruck", "..", 'a"b\\c', "a\nb", "50%", "ä"]
    boxes = np.arange(28).reshape(7, 4) + np.array([0, 0, 50, 50])
    found = Detections(boxes, np.linspace(1, 0, 7), np.arange(7))
    paths = write_comp(tmp_path, [found], ["x"], classes, split="val/2")
    assert len({*paths}) == 7 and {path.parent for path in paths} == {tmp_path}
    assert paths[0].name == "comp4_det_val%2F2_car%2Ftruck.txt"
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    (again,) = read_comp(tmp_path, ["x"], classes, split="val/2")
    assert again.boxes.tolist() == boxes.tolist() and again.labels.tolist() == [*range(7)]


def test_comp_against_hand_written_text(tmp_path):
    # xmin and ymin are one more in VOC's files; xmax and ymax are the same.
    paths = write_comp(tmp_path / "new", TWO, NAMES, CLASSES)
    assert [path.name for path in paths] == [
        "comp4_det_test_cat.txt",
        "comp4_det_test_dining table.txt",
        "comp4_det_test_dog.txt",
    ]
    assert [path.read_text() for path in paths] == [
        "000005 0.5 263 211 324 339\n000007 0.75 11 21 30 40\n",
        "",
        "000005 -0.25 1 1 1.5 2\n",
    ]
    assert sorted(tmp_path.joinpath("new").iterdir()) == sorted(paths)
    assert_same(read_comp(tmp_path / "new", NAMES, CLASSES), TWO)


def test_comp_reads_the_devkits_own_style(tmp_path):
    # %f as the devkit prints, carriage returns, blank lines, tabs, names in any order.
    text = (
        "000007 0.750000 11.000000 21.000000 30.000000 40.000000\r\n\r\n000005\t.5 263 211 324 339"
    )
    (tmp_path / "comp3_det_val_cat.txt").write_bytes(text.encode())
    detections = read_comp(tmp_path, NAMES, ("cat",))
    assert_same(detections, [found([(262, 210, 324, 339, 0.5, 0)]), TWO[1]])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_comp_round_trip_is_exact(tmp_path_factory, seed):
    folder = tmp_path_factory.mktemp("comp")
    detections = random_detections(np.random.default_rng(seed), 4)
    names = ("a", "b-1", "c.d", "2008_000123")
    write_comp(folder, detections, names, CLASSES, competition="comp3", split="val_2")
    back = read_comp(folder, names, CLASSES)
    for one, other in zip(back, detections, strict=True):
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.labels, other.labels)
        # 1-based coordinates below 1,000 with 12 digits.
        np.testing.assert_allclose(one.boxes, other.boxes, rtol=0, atol=1e-9)


def test_comp_chooses_the_set(tmp_path):
    write_comp(tmp_path, TWO, NAMES, CLASSES, competition="comp4", split="test")
    write_comp(tmp_path, TWO[::-1], NAMES, CLASSES, competition="comp3", split="test")
    with pytest.raises(EvalError, match="holds comp3_det_test, comp4_det_test; expected one set"):
        read_comp(tmp_path, NAMES, CLASSES)
    assert_same(read_comp(tmp_path, NAMES, CLASSES, competition="comp4"), TWO)
    write_comp(tmp_path, TWO, NAMES, CLASSES, competition="comp3", split="val")
    with pytest.raises(EvalError, match="expected one set"):
        read_comp(tmp_path, NAMES, CLASSES, competition="comp3")
    assert_same(read_comp(tmp_path, NAMES, CLASSES, competition="comp3", split="val"), TWO)


def test_comp_names_with_salt_and_underscores(tmp_path):
    # "person" is also the end of "big_person": the set that has every class is the right one.
    for name, line in (("person", "a 1 1 1 9 9"), ("big_person", "a 1 1 1 5 5")):
        (tmp_path / f"comp4_1a2b_det_test_{name}.txt").write_text(line)
    (detections,) = read_comp(tmp_path, ["a"], ("person", "big_person"))
    np.testing.assert_array_equal(detections.boxes[:, 2], [9, 5])
    np.testing.assert_array_equal(detections.labels, [0, 1])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("000009 0.5 1 1 5 5", "cat.txt:2: photograph '000009' is not in the split"),
        ("000005 0.5 1 1 5", "cat.txt:2: got '000005 0.5 1 1 5', expected 'name score"),
        ("000005 0.5 1 1 5 5 5", "cat.txt:2: got"),
        ("000005 high 1 1 5 5", "cat.txt:2: got"),
        ("000005 nan 1 1 5 5", "cat.txt:2: score or box is not finite"),
        ("000005 0.5 1 1 5 1e999", "cat.txt:2: score or box is not finite"),
    ],
)
def test_comp_bad_line(tmp_path, line, message):
    (tmp_path / "comp4_det_test_cat.txt").write_text(f"000005 .5 1 1 5 5\n{line}\n")
    with pytest.raises(EvalError, match=message):
        read_comp(tmp_path, NAMES, ("cat",))


def test_comp_missing_files(tmp_path):
    with pytest.raises(EvalError, match="no such folder"):
        read_comp(tmp_path / "nowhere", NAMES, CLASSES)
    with pytest.raises(EvalError, match="no comp3 or comp4 files"):
        read_comp(tmp_path, NAMES, CLASSES)
    write_comp(tmp_path, TWO, NAMES, CLASSES)[2].unlink()
    with pytest.raises(EvalError, match=r"comp4_det_test_dog.txt: no such file"):
        read_comp(tmp_path, NAMES, CLASSES)
    (tmp_path / "comp4_det_test_dog.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvalError, match=r"dog.txt: not a text file"):
        read_comp(tmp_path, NAMES, CLASSES)


def test_comp_bad_arguments(tmp_path):
    with pytest.raises(EvalError, match="2 and 1 entries"):
        write_comp(tmp_path, TWO, NAMES[:1], CLASSES)
    with pytest.raises(EvalError, match="white space"):
        write_comp(tmp_path, TWO, ("a b", "c"), CLASSES)
    with pytest.raises(EvalError, match="'a' is given twice"):
        write_comp(tmp_path, TWO, ("a", "a"), CLASSES)
    with pytest.raises(EvalError, match="split: got ''"):
        write_comp(tmp_path, TWO, NAMES, CLASSES, split="")
    with pytest.raises(EvalError, match="competition"):
        write_comp(tmp_path, TWO, NAMES, CLASSES, competition="comp5")
    with pytest.raises(EvalError, match="label 2"):
        write_comp(tmp_path, TWO, NAMES, CLASSES[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path):
    # A folder stands where the file should go.
    (tmp_path / "results.json" / "x").mkdir(parents=True)
    with pytest.raises(EvalError, match=r"results.json: cannot be written"):
        write_coco_results(tmp_path / "results.json", TWO, NAMES, CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(EvalError, match="cannot be written"):
        write_comp(tmp_path / "file", TWO, NAMES, CLASSES)


def test_no_photographs(tmp_path):
    write_comp(tmp_path, [], [], CLASSES)
    assert read_comp(tmp_path, [], CLASSES) == []
    write_coco_results(tmp_path / "r.json", [], [], [1])
    assert (tmp_path / "r.json").read_text() == "[]"
    assert read_coco_results(tmp_path / "r.json", [], [1]) == []


def test_coco_against_hand_written_json(tmp_path):
    path = tmp_path / "results.json"
    write_coco_results(path, TWO, [np.int64(5), 7], [1, 67, 18])
    assert json.loads(path.read_text()) == [
        {"image_id": 5, "category_id": 1, "bbox": [262, 210, 62, 129], "score": 0.5},
        {"image_id": 5, "category_id": 18, "bbox": [0, 0, 1.5, 2], "score": -0.25},
        {"image_id": 7, "category_id": 1, "bbox": [10, 20, 20, 20], "score": 0.75},
    ]
    assert_same(read_coco_results(path, [5, 7], [1, 67, 18]), TWO)


def test_coco_file_is_what_pycocotools_reads(tmp_path, capsys):
    write_coco_results(tmp_path / "results.json", TWO, [5, 7], [1, 67, 18])
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 5}, {"id": 7}],
        "categories": [{"id": 1}, {"id": 67}, {"id": 18}],
        "annotations": [],
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "results.json"))
    assert [a["area"] for a in loaded.anns.values()] == [62 * 129, 1.5 * 2, 20 * 20]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_coco_round_trip_is_exact(tmp_path_factory, seed):
    path = tmp_path_factory.mktemp("coco") / "results.json"
    detections = random_detections(np.random.default_rng(seed), 3)
    write_coco_results(path, detections, ["x", 3, "3"], [1, 2, 3])
    assert_same(read_coco_results(path, ["x", 3, "3"], [1, 2, 3]), detections)


# One half of the gap between 0.5 and the next float32: a tie where scores are rounded to float32.
HIGH = 0.5 + 2**-25
COMP_LINES = f"a 0.5 61 61 70 70\na {HIGH!r} 1 1 10 10\n"


def read_two(tmp_path, kind):
    """A false positive of score 0.5, then a hit of score HIGH."""
    if kind == "comp":
        (tmp_path / "comp4_det_test_cat.txt").write_text(COMP_LINES)
        return read_comp(tmp_path, ["a"], ["cat"])
    entries = [
        {"image_id": 5, "category_id": 1, "bbox": [60, 60, 10, 10], "score": 0.5},
        {"image_id": 5, "category_id": 1, "bbox": [0, 0, 10, 10], "score": HIGH},
    ]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    return read_coco_results(tmp_path / "results.json", [5], [1])


def test_names_win_over_numbers_in_coco_results(tmp_path):
    path = tmp_path / "results.json"
    box = {"bbox": [1, 2, 3, 4], "score": 1}
    entries = [
        {"image_id": "deep/b.jpg", "category_id": 1, "category": "dog", **box},
        {"image_id": 5, "category_id": 1, **box},
        {"image_id": "a.jpg", "category_id": 7, "category": "cat", **box},
    ]
    path.write_text(json.dumps(entries))
    files = {"a.jpg": 5, "b.jpg": "b"}
    five, b = read_coco_results(path, [5, "b"], [1, 2], ["cat", "dog"], files)
    assert five.labels.tolist() == [0, 0] and b.labels.tolist() == [1]
    with pytest.raises(EvalError, match="entry 1: category_id 1 without a name"):
        read_coco_results(path, [5, "b"], None, ["cat", "dog"], files)
    with pytest.raises(EvalError, match=r"entry 0: image_id 'deep/b\.jpg' is not in the set"):
        read_coco_results(path, [5, "b"], [1, 2], ["cat", "dog"], {"a.jpg": 5})
    with pytest.raises(EvalError, match="entry 0: category 'dog' is not in the set"):
        read_coco_results(path, [5, "b"], [1, 2], ["cat", "cow"], files)


@pytest.mark.parametrize("kind", ["comp", "coco"])
def test_scores_that_differ_only_beyond_float32_keep_their_order(tmp_path, kind):
    """The hit first, by a hair: AP 1. As a tie the false positive, first in the file: AP 1/2."""
    truths = [Truths(np.array([[0, 0, 10, 10]]), np.array([0]), np.array([False]))]
    (detections,) = read_two(tmp_path, kind)
    assert evaluate_voc([detections], truths, ["cat"]).mean_ap == 1.0
    assert evaluate_coco([detections], truths, ["cat"])["AP"] == pytest.approx(1.0)
    rounded = Detections(
        detections.boxes.astype(np.float32),
        detections.scores.astype(np.float32),
        detections.labels,
    )
    assert evaluate_voc([rounded], truths, ["cat"]).mean_ap == 0.5
    assert evaluate_coco([rounded], truths, ["cat"])["AP"] == pytest.approx(0.5)
    # Written and read again they differ still.
    write_comp(tmp_path / "again", [detections], ["a"], ["cat"])
    write_coco_results(tmp_path / "again.json", [detections], [5], [1])
    assert read_comp(tmp_path / "again", ["a"], ["cat"]) == [detections]
    assert read_coco_results(tmp_path / "again.json", [5], [1]) == [detections]


def test_numbers_beyond_float32_are_read(tmp_path):
    (tmp_path / "comp4_det_test_cat.txt").write_text("a 1e99 1 1 10 10\n")
    (detections,) = read_comp(tmp_path, ["a"], ["cat"])
    assert detections.scores.tolist() == [1e99]


GOOD = {"image_id": 5, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not json"),
        ("{}", "got dict, expected a list"),
        ([GOOD, 3], "entry 1: expected bbox, category_id, image_id, score"),
        ([{k: v for k, v in GOOD.items() if k != "score"}], "entry 0: expected"),
        ([GOOD, {**GOOD, "image_id": 6}], "entry 1: image_id 6 is not in the set"),
        ([{**GOOD, "image_id": [5]}], r"entry 0: image_id \[5\]"),
        ([{**GOOD, "category_id": True}], "entry 0: category_id True"),
        ([{**GOOD, "bbox": [0, 0, 2]}], "entry 0: expected a number as score"),
        ([{**GOOD, "bbox": None}], "entry 0: expected a number as score"),
        ([{**GOOD, "score": "high"}], "entry 0: expected a number as score"),
        ([GOOD, {**GOOD, "score": float("nan")}], "entry 1: score or box is not finite"),
        ([{**GOOD, "bbox": [0, 0, 1e999, 2]}], "entry 0: score or box is not finite"),
        ([{**GOOD, "bbox": [1e308, 0, 1e308, 2]}], "entry 0: score or box is not finite"),
        ([{**GOOD, "score": 10**400}], "entry 0: score or box is not finite"),
    ],
)
def test_coco_bad_file(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(EvalError, match=message) as caught:
        read_coco_results(path, [5], [1])
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_coco_bad_arguments(tmp_path):
    with pytest.raises(EvalError, match=r"none.json: cannot be read"):
        read_coco_results(tmp_path / "none.json", [5], [1])
    with pytest.raises(EvalError, match="2 and 1 entries"):
        write_coco_results(tmp_path / "r.json", TWO, [5], [1, 2, 3])
    for ids in ([5, 5], [5.0, 7], [True, 2]):
        with pytest.raises(EvalError, match="image_ids"):
            write_coco_results(tmp_path / "r.json", TWO, ids, [1, 2, 3])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("classes", [["cat"], list("abcdefg")])
def test_plot(tmp_path, classes):
    # Class 0 found, class 1 true without detections, the others absent.
    truths = [Truths(TWO[1].boxes.repeat(2, 0), np.arange(2) % len(classes), np.zeros(2, bool))]
    result = evaluate_voc(TWO[1:], truths, classes)
    path = tmp_path / "plots" / "curves.png"
    plot_curves(result, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.min() < 60
    assert pixels.mean() > 200
    # The curve's own colour is somewhere.
    assert (np.abs(pixels.astype(int) - (0x1F, 0x5A, 0x8C)).sum(axis=2) < 12).any()
    assert [entry.name for entry in path.parent.iterdir()] == ["curves.png"]


def test_plot_leaves_pyplot_alone(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_curves(evaluate_voc([], [], ["cat"]), tmp_path / "curves.png")
    assert plt.get_fignums() == before
    with pytest.raises(EvalError, match="cannot be written"):
        plot_curves(evaluate_voc([], [], ["cat"]), tmp_path)
