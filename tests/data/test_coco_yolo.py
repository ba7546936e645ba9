"""COCO files and YOLO folders worked by hand; COCO also against pycocotools."""

import contextlib
import io
import json

import pytest
from PIL import Image

from data import (
    UNSPLIT,
    DataError,
    is_labelled,
    join_sets,
    list_splits,
    open_dataset,
    select_classes,
)


def photo(path, size=(100, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def refusal(path, split="val", **options):
    with pytest.raises(DataError) as caught:
        open_dataset(path, split, **{"strict": True} | options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content():
    return {
        "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
        "categories": [{"id": 18, "name": "dog"}, {"id": 2, "name": "bicycle"}],
        "annotations": [
            {"id": 1, "image_id": 3, "category_id": 18, "bbox": [10, 20.5, 30, 40]},
            {"id": 2, "image_id": 3, "category_id": 2, "bbox": [-1, 0, 102, 81], "iscrowd": 1},
        ],
    }


@pytest.fixture
def coco(tmp_path):
    path = tmp_path / "annotations" / "instances_val2017.json"
    photo(tmp_path / "val2017" / "a.jpg")
    photo(tmp_path / "val2017" / "b.jpg")
    path.parent.mkdir()
    path.write_text(json.dumps(content()))
    return path


def test_coco(coco):
    dataset = open_dataset(coco, "anything")
    assert dataset.classes == ("bicycle", "dog") and dataset.split == "instances_val2017"
    first, second = dataset
    assert (first.name, first.path.name, len(first.labels)) == ("7", "a.jpg", 0)
    assert (second.name, second.width, second.height) == ("3", 100, 80)
    assert second.labels.boxes.tolist() == [[10, 20.5, 40, 60.5], [0, 0, 100, 80]]
    assert second.labels.classes.tolist() == [1, 0]
    assert second.labels.difficult.tolist() == [False, True]
    given = open_dataset(coco, "", classes=["dog", "bicycle"])
    assert given.photographs[1].labels.classes.tolist() == [0, 1]


def test_a_coco_file_called_all_is_no_set_without_splits(coco):
    path = coco.rename(coco.with_name("all.json"))
    assert open_dataset(path, "val2017").split == "all.json" != UNSPLIT


def test_coco_agrees_with_pycocotools(coco):
    module = pytest.importorskip("pycocotools.coco")
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = module.COCO(str(coco))
    dataset = open_dataset(coco, "val")
    for photograph in dataset:
        notes = theirs.loadAnns(theirs.getAnnIds(int(photograph.name)))
        names = [theirs.loadCats(note["category_id"])[0]["name"] for note in notes]
        assert [dataset.classes[i] for i in photograph.labels.classes] == names


@pytest.mark.parametrize("folder", ["annotations", "annotations/images", "images/val", "images"])
def test_coco_photographs_may_lie_elsewhere(coco, tmp_path, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "val2017" / name).rename(tmp_path / folder / name)
    assert open_dataset(coco, "val").photographs[1].path == tmp_path / folder / "b.jpg"


@pytest.mark.parametrize(
    ("where", "entry", "expected"),
    [
        ("annotations", {"bbox": [10, 20, 0, 5]}, "zero area"),
        ("annotations", {"bbox": [10, 20, -4, 5]}, "inverted"),
        ("annotations", {"bbox": [90, 20, 13, 5]}, "outside"),
        ("annotations", {"bbox": [1, 2, 3]}, "expected x, y, width, height"),
        ("annotations", {"bbox": ["a", 2, 3, 4]}, "expected x, y, width, height"),
        ("annotations", {"bbox": None}, "expected x, y, width, height"),
        ("annotations", {"bbox": [float("nan"), 2, 3, 4]}, "not finite"),
        ("annotations", {"category_id": 5}, "category_id 5"),
        ("annotations", {"category_id": [5]}, "category_id"),
        ("annotations", {"image_id": 99}, "image id 99"),
        ("annotations", {"image_id": "x"}, "usable"),
        ("annotations", {"iscrowd": 2}, "iscrowd 2"),
        ("images", {"id": 3}, "stands twice"),
        ("images", {"file_name": "absent.jpg"}, "absent.jpg"),
        ("images", {"id": None}, "usable"),
        ("categories", {"id": 2}, "stands twice"),
        ("categories", {"name": "bicycle"}, "'bicycle' stands twice"),
    ],
)
def test_bad_coco(coco, where, entry, expected):
    bad = content()
    bad[where][0].update(entry)
    coco.write_text(json.dumps(bad))
    text = refusal(coco)
    assert expected in text and coco.name in text


def test_broken_coco(coco):
    for bad in ("", "{", "[]", '{"images": []}', "[" * 100_000, "\x00"):
        coco.write_text(bad)
        assert coco.name in refusal(coco)
    coco.write_text(json.dumps({**content(), "images": []}))
    assert "no image" in refusal(coco)
    coco.write_text(json.dumps({**content(), "categories": [], "annotations": []}))
    assert "at least one name" in refusal(coco)
    coco.write_text(json.dumps({**content(), "images": [3]}))
    assert "usable" in refusal(coco)
    coco.write_text(json.dumps(content()))
    assert open_dataset(coco, "val", classes=["bicycle"]).left_out == {"dog": 1}
    assert "none of the classes" in refusal(coco, classes=["zebra"])
    (coco.parent.parent / "val2017" / "b.jpg").unlink()
    assert "b.jpg: no such file" in refusal(coco)


@pytest.mark.parametrize("name", ["../val2017/a.jpg", "{root}/val2017/a.jpg", "c/../a.jpg"])
def test_coco_photographs_lie_within_their_folder(coco, name):
    other = content()
    other["images"][0]["file_name"] = name = name.format(root=coco.parent.parent)
    coco.write_text(json.dumps(other))
    text = refusal(coco)
    assert name in text and str(coco) in text and "within" in text


@pytest.fixture
def yolo(tmp_path):
    photo(tmp_path / "images" / "val" / "a.jpg")
    photo(tmp_path / "images" / "val" / "b.PNG", (200, 100))
    (tmp_path / "labels" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val" / "b.txt").write_text(
        "1 0.5 0.5 0.25 0.5\n\n0 0.5 0.5 1.008 1.0\n"
    )
    (tmp_path / "classes.txt").write_text("zebra\nant\n")
    return tmp_path


def test_yolo(yolo):
    dataset = open_dataset(yolo, "val")
    assert dataset.classes == ("zebra", "ant")
    first, second = dataset
    assert (first.name, len(first.labels)) == ("a", 0)
    assert (second.name, second.width, second.height) == ("b", 200, 100)
    assert second.labels.boxes.tolist() == [[75, 25, 125, 75], [0, 0, 200, 100]]
    assert second.labels.classes.tolist() == [1, 0] and not second.labels.difficult.any()
    given = open_dataset(yolo, "val", classes=["ant", "zebra", "bee"])
    assert given.photographs[1].labels.classes.tolist() == [0, 1]
    only = open_dataset(yolo, "val", classes=["ant"])
    assert only.photographs[1].labels.boxes.tolist() == [[75, 25, 125, 75]]
    assert only.left_out == {"zebra": 1}
    assert [*select_classes(dataset, ["ant"]).photographs[1].labels.classes] == [0]
    assert join_sets([only]).left_out == {"zebra": 1}


@pytest.mark.parametrize(
    "text",
    [
        "names: [zebra, ant]",
        "path: x\nnames: ['zebra', \"ant\"]  # two\nnc: 2\n",
        "names: [\n  'zebra',\n  ant,\n]\nnc: 2",
        "names: {0: zebra, 1: ant}",
        "names:\n- zebra\n- 'ant'\nnc: 2",
        'nc: 2\nnames:  # all of them\n\n  0: zebra\n  1: "ant"  # small\ntrain: images/train\n',
        "names:\n  - zebra\n  - ant\n",
    ],
)
def test_yolo_names_from_yaml(yolo, text):
    (yolo / "classes.txt").unlink()
    (yolo / "data.yaml").write_text(text)
    assert open_dataset(yolo, "val").classes == ("zebra", "ant")


def test_yaml_names_may_hold_spaces_and_digits(yolo):
    (yolo / "classes.txt").unlink()
    for text in ("names: ['a, b', 3 d, x-y]", "names:\n  - a, b\n  - 3 d\n  - x-y"):
        (yolo / "data.yaml").write_text(text)
        assert open_dataset(yolo, "val").classes == ("a, b", "3 d", "x-y")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'names: ["traffic # light", "it\'s", 1.10, no]',
            ("traffic # light", "it's", "1.10", "no"),
        ),
        ("names: !!python/object/apply:os.abort [a]", ("a",)),  # tags make nothing
        ("names: {1: ant, 0: zebra}", ("zebra", "ant")),
        ("names:\n  0: 'zebra'  # striped\n  1: >-\n    an ant\n", ("zebra", "an ant")),
    ],
)
def test_yaml_names_are_not_altered(yolo, text, expected):
    (yolo / "classes.txt").unlink()
    (yolo / "labels" / "val" / "b.txt").unlink()
    (yolo / "data.yaml").write_text(text)
    assert open_dataset(yolo, "val").classes == expected


def test_any_yaml_describes_a_set(yolo):
    (yolo / "classes.txt").unlink()
    path = yolo / "animals.YML"
    path.write_text("names: [zebra, ant]")
    (yolo / "workflow.yaml").write_text("jobs: [a, b]")
    (yolo / "broken.yaml").write_text("a: [")
    assert is_labelled(yolo) and is_labelled(path)
    for given in (yolo, path):
        assert open_dataset(given, "val").classes == ("zebra", "ant")
    (yolo / "birds.yaml").write_text("names: [tit]")
    assert "both have class names" in refusal(yolo)
    assert open_dataset(path, "val").classes == ("zebra", "ant")


@pytest.mark.parametrize("place", ["deep/images", "../deep/images", "[deep/images]", "list.txt"])
@pytest.mark.parametrize("base", ["", "path: .\n", "path: ../set\n", "path: /nowhere\n"])
def test_yaml_splits(tmp_path, place, base):
    root = tmp_path / "set"
    photo(root / "deep" / "images" / "more" / "a.jpg")
    photo(root / "deep" / "images" / "b.jpg")
    (root / "deep" / "labels" / "more").mkdir(parents=True)
    (root / "deep" / "labels" / "more" / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    (root / "list.txt").write_text("./deep/images/b.jpg\n\ndeep/images/more/a.jpg\n")
    (root / "set.yaml").write_text(f"{base}names: [ant]\nval: {place}\ntrain: absent\n")
    dataset = open_dataset(root / "set.yaml", "val")
    assert {p.name: len(p.labels) for p in dataset} == {"a": 1, "b": 0}
    if place == "list.txt":
        assert [p.name for p in dataset] == ["b", "a"]
    assert "names absent, which is not there" in refusal(root, "train")


def test_trainval_is_train_and_val(yolo):
    photo(yolo / "train" / "images" / "c.jpg")
    (yolo / "train" / "labels").mkdir()
    assert [p.name for p in open_dataset(yolo, "trainval")] == ["c", "a", "b"]
    (yolo / "data.yaml").write_text("names: [x, y]\ntrain: train/images\nvalid: images/val\n")
    dataset = open_dataset(yolo, "trainval")
    assert [p.name for p in dataset] == ["c", "a", "b"] and dataset.classes == ("x", "y")
    assert [p.name for p in open_dataset(yolo, "val")] == ["a", "b"]


def test_roboflow_calls_val_valid(yolo):
    (yolo / "valid").mkdir()
    (yolo / "images" / "val").rename(yolo / "valid" / "images")
    (yolo / "labels" / "val").rename(yolo / "valid" / "labels")
    assert len(open_dataset(yolo, "val")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "nc: 2",
        "names: []",
        "names:\nnc: 2",
        "names: {0: a, 2: b}",
        "names: [a, '']",
        "names: [a, [b]]",
        "names: [a",
        "names: [a, b]\nval: {a: b}",
        "- names",
    ],
)
def test_bad_yaml_names(yolo, text):
    (yolo / "classes.txt").unlink()
    (yolo / "data.yaml").write_text(text)
    assert "data.yaml" in refusal(yolo)


def test_other_yolo_layouts(yolo):
    (yolo / "val").mkdir()
    (yolo / "images" / "val").rename(yolo / "val" / "images")
    (yolo / "labels" / "val").rename(yolo / "val" / "labels")
    assert len(open_dataset(yolo, "val")) == 2
    (yolo / "images").rmdir()
    (yolo / "labels").rmdir()
    (yolo / "val" / "images").rename(yolo / "images")
    (yolo / "val" / "labels").rename(yolo / "labels")
    whole = open_dataset(yolo, "whatever")
    assert [len(p.labels) for p in whole] == [0, 2] and whole.split == "all"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("2 0.5 0.5 0.1 0.1", "class from 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class from 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class from 0 to 1"),
        ("nan 0.5 0.5 0.1 0.1", "class from 0 to 1"),
        ("ant 0.5 0.5 0.1 0.1", "expected numbers: class x y width height"),
        ("0 0.5 0.5 0.1", "expected: class x y width height"),
        ("0", "expected: class x y width height"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.9 0.1", "or a polygon's points"),
        ("0 0.1 0.1 0.5 0.1 nan 0.9", "not finite"),
        ("0 0.5 0.5 0 0.1", "zero area"),
        ("0 0.5 0.5 -0.1 0.1", "inverted"),
        ("0 nan 0.5 0.1 0.1", "not finite"),
        ("0 75 25 125 75", "outside"),
        ("0 0.98 0.5 0.1 0.1", "outside"),
    ],
)
def test_bad_yolo_lines(yolo, line, expected):
    path = yolo / "labels" / "val" / "b.txt"
    path.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    text = refusal(yolo)
    assert expected in text and "line 2" in text and line in text and str(path) in text


def test_yolo_polygons_confidences_and_classes_as_decimals(yolo):
    lines = [
        "1.0 0.5 0.5 0.25 0.5 0.93",
        "0 0.5 0.25 0.75 0.5 0.5 0.75 0.25 0.5",
        "1 0 0 .5 0 .5 .5",
    ]
    (yolo / "labels" / "val" / "b.txt").write_text("\n".join(lines))
    labels = open_dataset(yolo, "val").photographs[1].labels
    assert labels.boxes.tolist() == [[75, 25, 125, 75], [50, 25, 150, 75], [0, 0, 100, 50]]
    assert labels.classes.tolist() == [1, 0, 1]


def test_bad_yolo_folders(yolo):
    text = refusal(yolo, "test")
    assert "'test'" in text and "there are: val" in text
    (yolo / "labels" / "val" / "b.txt").write_bytes(b"\xff\xfe")
    assert "b.txt: cannot be read" in refusal(yolo)
    photo(yolo / "images" / "val" / "a.png")
    (yolo / "labels" / "val" / "b.txt").unlink()
    assert "'a' is used twice" in refusal(yolo)
    (yolo / "classes.txt").unlink()
    assert "classes.txt or data.yaml" in refusal(yolo)
    (yolo / "classes.txt").write_text("a\na\n")
    assert "stands twice" in refusal(yolo)
    (yolo / "labels" / "val").rmdir()
    (yolo / "classes.txt").write_text("a\nb\n")
    assert "expected the labels of" in refusal(yolo)


def test_cvats_yolo(tmp_path):
    """As CVAT exports "YOLO 1.1": labels beside photographs, lists that begin with data/."""
    photo(tmp_path / "obj_train_data" / "deep" / "a.jpg")
    photo(tmp_path / "obj_train_data" / "b.jpg")
    (tmp_path / "obj_train_data" / "deep" / "a.txt").write_text("1 0.5 0.5 0.2 0.5\n")
    (tmp_path / "obj_train_data" / "b.txt").write_text("")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    data = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    (tmp_path / "obj.data").write_text(data)
    (tmp_path / "train.txt").write_text(
        "data/obj_train_data/deep/a.jpg\ndata/obj_train_data/b.jpg\n"
    )
    for split in ("train", "trainval"):
        dataset = open_dataset(tmp_path, split)
        assert dataset.classes == ("cat", "dog") and not dataset.faults
        assert [len(one.labels) for one in dataset] == [1, 0]
    assert dataset.photographs[0].labels.boxes.tolist() == [[40, 20, 60, 60]]
    assert list_splits(tmp_path) == ["train", "trainval"]


def test_cvats_coco(tmp_path):
    """As CVAT's "COCO 1.0" export lies."""
    photo(tmp_path / "images" / "default" / "a.jpg")
    box = {"bbox": [10.5, 20, 30, 40], "segmentation": [], "area": 1200.0, "iscrowd": 0}
    content = {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": ""},
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
        "images": [{"id": 1, "width": 100, "height": 80, "file_name": "a.jpg", "license": 0}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "attributes": {"occluded": False}, **box}
        ],
    }
    path = tmp_path / "annotations" / "instances_default.json"
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    (photograph,) = open_dataset(path, "trainval", strict=True)
    assert photograph.labels.boxes.tolist() == [[10.5, 20, 40.5, 60]]


def test_label_studios_coco_and_yolo(tmp_path):
    """As its exports lie: ids from 0, photographs in images, names with a prefix."""
    photo(tmp_path / "images" / "3f2a-a.jpg")
    content = {
        "images": [{"width": 100, "height": 80, "id": 0, "file_name": "images/3f2a-a.jpg"}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 1,
                "segmentation": [],
                "bbox": [10.0, 20.0, 30.0, 40.0],
                "ignore": 0,
                "iscrowd": 0,
                "area": 1200.0,
            }
        ],
        "info": {"year": 2026, "version": "1.0", "contributor": "Label Studio"},
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path / "result.json", "trainval", strict=True)
    assert dataset.photographs[0].labels.boxes.tolist() == [[10, 20, 40, 60]]
    assert dataset.photographs[0].labels.classes.tolist() == [1]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "3f2a-a.txt").write_text("1 0.25 0.5 0.3 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.json").write_text('{"categories": []}')
    dataset = open_dataset(tmp_path, "trainval", strict=True)
    assert dataset.split == "all"
    assert dataset.photographs[0].labels.boxes.round(4).tolist() == [[10, 20, 40, 60]]
