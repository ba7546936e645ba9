"""What is wrong in a set is mended or left out, and told: worked by hand, in every format."""

import json

import pytest
from PIL import Image

from data import (
    DataError,
    leave_out_unreadable,
    list_splits,
    open_dataset,
    summarise_faults,
)


def photo(path, size=(100, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def annotation(*corners, name="cat", extra=""):
    keys = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><name>{name}</name>{extra}<bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, own, strict=True))
        + "</bndbox></object>"
        for own in corners
    )
    return f"<annotation>{objects}</annotation>"


SOUND = (11, 21, 40, 60)


@pytest.fixture
def labelimg(tmp_path):
    """A folder of one photograph, 100 x 80, to write an annotation beside it."""
    photo(tmp_path / "one.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("corners", "box", "outcome"),
    [
        ((11, 21, 102, 60), [10, 20, 100, 60], "box clipped to its photograph"),
        ((-3, -9, 40, 60), [0, 0, 40, 60], "box clipped to its photograph"),
        ((40, 21, 11, 60), [10, 20, 40, 60], "corners of a box swapped"),
        ((40, 60, 11, 21), [10, 20, 40, 60], "corners of a box swapped"),
        ((40, 21, 40, 60), None, "box dropped"),
        ((102, 21, 140, 60), None, "box dropped"),
        ((11, "nan", 40, 60), None, "box dropped"),
        (("left", 21, 40, 60), None, "box dropped"),
    ],
)
def test_an_imperfect_box(labelimg, corners, box, outcome):
    (labelimg / "one.xml").write_text(annotation(SOUND, corners))
    dataset = open_dataset(labelimg, "all")
    boxes = dataset.photographs[0].labels.boxes.tolist()
    assert boxes == [[10, 20, 40, 60]] + ([box] if box else [])
    (fault,) = dataset.faults
    assert fault.outcome == outcome and fault.told.startswith(f"{labelimg / 'one.xml'}: ")
    assert all(f"'{value}'" in fault.told for value in corners)
    with pytest.raises(DataError, match="1 fault: 1 x " + outcome):
        open_dataset(labelimg, "all", strict=True)


def test_all_faults_are_told_and_nothing_else_is_lost(labelimg):
    for name in ("broken", "missing_box", "sound", "unsure"):
        photo(labelimg / f"{name}.jpg")
    (labelimg / "one.xml").write_text(annotation((0, 0, 300, 300), (5, 5, 5, 5), SOUND))
    (labelimg / "broken.xml").write_text("<annotation><object>")
    (labelimg / "missing_box.xml").write_text(
        "<annotation><object><name>cat</name></object></annotation>"
    )
    (labelimg / "sound.xml").write_text(annotation(SOUND, SOUND))
    unsure = annotation(SOUND, extra="<difficult>perhaps</difficult>")
    (labelimg / "unsure.xml").write_text(unsure)
    (labelimg / "orphan.xml").write_text(annotation(SOUND))
    dataset = open_dataset(labelimg, "all")
    counts = {photograph.name: len(photograph.labels) for photograph in dataset}
    assert counts == {"one": 2, "missing_box": 0, "sound": 2, "unsure": 1}
    assert not dataset.photographs[-1].labels.difficult.any()
    summary = summarise_faults(dataset.faults)
    assert summary.startswith("6 faults: ")
    for part in (
        "1 x box clipped to its photograph",
        "2 x box dropped",
        "1 x photograph left out",
        "1 x annotation left out",
        "1 x object taken as not difficult",
    ):
        assert part in summary


def test_a_set_of_which_nothing_is_left_is_refused(labelimg):
    (labelimg / "one.xml").write_text("<annotation><object>")
    with pytest.raises(DataError, match=r"one\.xml: broken XML"):
        open_dataset(labelimg, "all", ["cat"])
    (labelimg / "one.xml").write_text(annotation((5, 5, 5, 5)))
    with pytest.raises(DataError, match=r"box dropped; the first: .*one\.xml"):
        open_dataset(labelimg, "all")


def test_photographs_that_cannot_be_decoded_are_left_out(labelimg):
    (labelimg / "one.xml").write_text(annotation(SOUND))
    Image.effect_noise((100, 80), 50).convert("RGB").save(labelimg / "two.jpg")
    data = (labelimg / "two.jpg").read_bytes()
    (labelimg / "two.jpg").write_bytes(data[: len(data) // 2])
    (labelimg / "two.xml").write_text(annotation(SOUND))
    dataset = open_dataset(labelimg, "all")
    assert len(dataset) == 2 and not dataset.faults
    whole = leave_out_unreadable(dataset)
    assert [photograph.name for photograph in whole] == ["one"]
    assert [fault.outcome for fault in whole.faults] == ["photograph left out"]
    assert "two.jpg" in whole.faults[0].told
    (labelimg / "one.jpg").unlink()
    with pytest.raises(DataError, match="2 faults: 2 x photograph left out"):
        leave_out_unreadable(dataset)


def test_missing_photographs_of_a_voc_split_are_left_out(tmp_path):
    photo(tmp_path / "JPEGImages" / "one.jpg")
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "Annotations" / "one.xml").write_text(annotation(SOUND))
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("one\ntwo\n")
    dataset = open_dataset(tmp_path, "train")
    assert [photograph.name for photograph in dataset] == ["one"]
    assert "two.jpg: no such file" in dataset.faults[0].told


def test_imperfect_lines_of_yolo(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    lines = [
        "0 0.5 0.5 0.2 0.2",
        "1 0.95 0.5 0.2 0.2",  # reaches out by a twentieth: 5 pixels
        "7 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 0 0.2",
        "0 0.5 0.5 -0.2 0.2",
        "0 0.5",
        "cat 0.5 0.5 0.2 0.2",
        "1 0.1 0.1 0.3 0.1 0.2 0.5",
    ]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("\n".join(lines))
    dataset = open_dataset(tmp_path, "all")
    labels = dataset.photographs[0].labels
    expected = [[40, 32, 60, 48], [85, 32, 100, 48], [40, 32, 60, 48], [10, 8, 30, 40]]
    assert labels.boxes.round(3).tolist() == expected
    assert labels.classes.tolist() == [0, 1, 0, 1]
    outcomes = [fault.outcome for fault in dataset.faults]
    assert outcomes == [
        "box clipped to its photograph",
        "box dropped",
        "box dropped",
        "corners of a box swapped",
        "box dropped",
        "box dropped",
    ]
    assert all("a.txt: line " in fault.told for fault in dataset.faults)


def test_imperfect_entries_of_coco(tmp_path):
    photo(tmp_path / "a.jpg")
    notes = [
        {"id": 1, "image_id": 1, "category_id": 5, "bbox": [10, 20, 30, 40]},
        {"id": 2, "image_id": 1, "category_id": 5, "bbox": [90, 20, 30, 40]},
        {"id": 3, "image_id": 1, "category_id": 6, "bbox": [10, 20, 30, 40]},
        {"id": 4, "image_id": 1, "category_id": 5, "bbox": [10, 20, 0, 40]},
        {"id": 5, "image_id": 2, "category_id": 5, "bbox": [10, 20, 30, 40]},
        {"id": 6, "image_id": 9, "category_id": 5, "bbox": [10, 20, 30, 40]},
        {"id": 7, "image_id": 1, "category_id": 5, "bbox": [10, 20, 30, 40], "iscrowd": "?"},
    ]
    images = [{"id": 2, "file_name": "gone.jpg"}, {"id": 1, "file_name": "a.jpg"}]
    content = {
        "images": images,
        "annotations": notes,
        "categories": [{"id": 5, "name": "cat"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path / "labels.json", "any")
    (photograph,) = dataset
    assert photograph.labels.boxes.tolist() == [
        [10, 20, 40, 60],
        [90, 20, 100, 60],
        [10, 20, 40, 60],
    ]
    told = [(fault.outcome, fault.told) for fault in dataset.faults]
    assert [outcome for outcome, _ in told] == [
        "photograph left out",
        "box clipped to its photograph",
        "box dropped",
        "box dropped",
        "box dropped",
        "object taken as not difficult",
    ]
    assert "gone.jpg" in told[0][1] and "image id 9" in told[4][1]


def test_a_photograph_missing_from_a_list_is_left_out(tmp_path):
    photo(tmp_path / "images" / "a.jpg")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "train.txt").write_text("images/a.jpg\nimages/gone.jpg\n")
    (tmp_path / "data.yaml").write_text("train: train.txt\ntest: null\nval: ~\nnames: [cat]\n")
    dataset = open_dataset(tmp_path, "train")
    assert [one.name for one in dataset] == ["a"]
    assert [fault.outcome for fault in dataset.faults] == ["photograph left out"]
    assert "gone.jpg" in dataset.faults[0].told
    assert list_splits(tmp_path) == ["train", "trainval"]


@pytest.mark.parametrize(
    ("place", "value"),
    [("bbox", [10**400, 1, 2, 3]), ("image_id", float("inf")), ("id", float("inf"))],
)
def test_numbers_beyond_all_bounds(tmp_path, place, value):
    photo(tmp_path / "a.jpg")
    note = {"image_id": 1, "category_id": 5, "bbox": [10, 20, 30, 40]}
    image = {"id": 1, "file_name": "a.jpg"}
    (image if place == "id" else note)[place] = value
    content = {"images": [image], "annotations": [note], "categories": [{"id": 5, "name": "cat"}]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(DataError):
        open_dataset(tmp_path / "labels.json", "any", strict=True)
