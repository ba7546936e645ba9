"""VOC folders: against torchvision on real ones, by hand on bad ones."""

import dataclasses
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import (
    SYNTHETIC_CLASSES,
    DataError,
    check_photographs,
    is_labelled,
    join_sets,
    make_synthetic_set,
    open_dataset,
)

BOX = {"xmin": "11", "ymin": "21", "xmax": "40", "ymax": "60"}


def object_xml(name="cat", extra="", **corners):
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in {**BOX, **corners}.items())
    return f"<object><name>{name}</name>{extra}<bndbox>{inner}</bndbox></object>"


def annotation_xml(*objects, width="100", height="80"):
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """A VOC folder of one photograph, 100 x 80, with one cat."""
    root = tmp_path / "VOC2010"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (100, 80)).save(root / "JPEGImages" / "one.jpg")
    (root / "Annotations" / "one.xml").write_text(annotation_xml(object_xml()))
    (root / "ImageSets" / "Main" / "train.txt").write_text("one\n")
    return root


def boxes_of(voc, *objects):
    (voc / "Annotations" / "one.xml").write_text(annotation_xml(*objects))
    (photograph,) = open_dataset(voc, "train")
    return photograph.labels.boxes.tolist()


def refusal(path, split="train", **options):
    with pytest.raises(DataError) as caught:
        open_dataset(path, split, **{"strict": True} | options)
    text = str(caught.value)
    assert "\n" not in text
    return text


def refused_annotation(voc, content):
    (voc / "Annotations" / "one.xml").write_text(content)
    text = refusal(voc)
    assert str(voc / "Annotations" / "one.xml") in text
    return text


@pytest.mark.parametrize("size", [("7", "7"), ("80", "100")])
def test_another_size_than_the_photographs_is_told(voc, size):
    """The photograph's header is what counts."""
    width, height = size
    text = annotation_xml(object_xml(), width=width, height=height)
    (voc / "Annotations" / "one.xml").write_text(text)
    dataset = open_dataset(voc, "train")
    (photograph,) = dataset
    assert (photograph.width, photograph.height) == (100, 80)
    assert photograph.labels.boxes.tolist() == [[10, 20, 40, 60]]
    (fault,) = dataset.faults
    assert fault.outcome == "boxes taken as they are"
    assert f"{width} x {height} pixels; expected 100 x 80" in fault.told


@pytest.mark.parametrize("size", [("0", "0"), ("", ""), ("wide", "7"), ("100", "80")])
def test_a_size_that_is_not_known_is_no_fault(voc, size):
    text = annotation_xml(object_xml(), width=size[0], height=size[1])
    (voc / "Annotations" / "one.xml").write_text(text)
    assert open_dataset(voc, "train").faults == ()


def test_ids_may_end_as_the_marks_of_class_files_do(voc):
    (voc / "ImageSets" / "Main" / "train.txt").write_text("")
    for name in ("pet 1", "pet 2", "pet 0"):
        add_photograph(voc, name, objects=[object_xml()])
    assert [one.name for one in open_dataset(voc, "train")] == ["pet 1", "pet 2", "pet 0"]
    (voc / "ImageSets" / "Main" / "cat_train.txt").write_text("pet 1 -1\none  1\n")
    assert [one.name for one in open_dataset(voc, "cat_train")] == ["pet 1", "one"]


def add_photograph(voc, name, suffix=".jpg", objects=()):
    Image.new("RGB", (100, 80)).save(voc / "JPEGImages" / f"{name}{suffix}")
    (voc / "Annotations" / f"{name}.xml").write_text(annotation_xml(*objects))
    with (voc / "ImageSets" / "Main" / "train.txt").open("a") as stream:
        stream.write(f"{name}\n")


@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
def test_real_sets_agree_with_torchvision(mini_voc, split):
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.datasets.VOCDetection(mini_voc.parents[1], "2007", split)
    ours = open_dataset(mini_voc, split)
    assert len(ours) == len(theirs) > 0
    assert list(ours.classes) == sorted(ours.classes) and len(ours.classes) <= 20
    for photograph, annotation_path, photo_path in zip(
        ours, theirs.annotations, theirs.images, strict=True
    ):
        target = theirs.parse_voc_xml(ElementTree.parse(annotation_path).getroot())["annotation"]
        assert photograph.path.samefile(photo_path)
        assert photograph.name + ".jpg" == target["filename"]
        size = target["size"]
        assert (photograph.width, photograph.height) == (int(size["width"]), int(size["height"]))
        expected = [
            [int(o["bndbox"][k]) - shift for k, shift in zip(BOX, (1, 1, 0, 0), strict=True)]
            for o in target["object"]
        ]
        labels = photograph.labels
        np.testing.assert_array_equal(labels.boxes, expected)
        names = [ours.classes[i] for i in labels.classes]
        assert names == [o["name"] for o in target["object"]]
        assert labels.difficult.tolist() == [o["difficult"] == "1" for o in target["object"]]
        assert labels.boxes.dtype == np.float32 and labels.classes.dtype == np.int64


def test_real_photographs_all_decode(mini_voc):
    assert check_photographs(open_dataset(mini_voc, "val")) == []


def test_inclusive_1_based_becomes_half_open(voc):
    dataset = open_dataset(voc, "train")
    (photograph,) = dataset
    assert len(dataset) == 1 and dataset.classes == ("cat",) and dataset.split == "train"
    assert (dataset.root, photograph.name) == (voc, "one")
    assert (photograph.width, photograph.height) == (100, 80)
    assert photograph.path == voc / "JPEGImages" / "one.jpg"
    assert photograph.labels.boxes.tolist() == [[10, 20, 40, 60]]
    assert photograph.labels.difficult.tolist() == [False] and len(photograph.labels) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        photograph.name = "two"


def test_the_folder_may_be_given_from_above(voc, tmp_path):
    devkit = tmp_path / "any" / "VOCdevkit"
    devkit.mkdir(parents=True)
    shutil.move(voc, devkit / "VOC2007")
    for path in (devkit / "VOC2007", devkit, devkit.parent, str(devkit)):
        assert open_dataset(path, "train").root == devkit / "VOC2007"
    shutil.copytree(devkit / "VOC2007", devkit / "VOC2012")
    text = refusal(devkit)
    assert "several" in text and "VOC2007, VOC2012" in text


def test_decimal_difficult_and_unlabelled(voc):
    assert boxes_of(voc, object_xml(xmin="10.5", xmax=" 40.25 ")) == [[9.5, 20, 40.25, 60]]
    add_photograph(voc, "two", ".PNG")
    hard = object_xml("dog", "<difficult>1</difficult>")
    easy = object_xml("dog", "<difficult>Unspecified</difficult>")
    add_photograph(voc, "three", ".webp", [hard, easy])
    dataset = open_dataset(voc, "train")
    first, second, third = (photograph.labels for photograph in dataset)
    assert dataset.classes == ("cat", "dog")
    assert second.boxes.shape == (0, 4) and second.boxes.dtype == np.float32
    assert second.classes.shape == (0,) and second.difficult.dtype == bool
    assert third.difficult.tolist() == [True, False] and third.classes.tolist() == [1, 1]
    assert first.classes.tolist() == [0]


def test_boxes_of_parts_are_no_objects(voc):
    part = (
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax>"
        "<ymax>5</ymax></bndbox></part>"
    )
    assert boxes_of(voc, object_xml("person", part)) == [[10, 20, 40, 60]]
    assert open_dataset(voc, "train").classes == ("person",)


def test_one_pixel_outside_is_clipped(voc):
    zero_based = object_xml(xmin="0", ymin="0", xmax="100", ymax="80")
    over = object_xml(xmin="1", ymin="1", xmax="101", ymax="81")
    assert boxes_of(voc, zero_based, over) == [[0, 0, 100, 80]] * 2


@pytest.mark.parametrize(
    ("corners", "expected"),
    [
        ({"xmin": "40", "xmax": "11"}, "inverted"),
        ({"ymin": "61"}, "inverted"),
        ({"xmin": "40", "xmax": "40"}, "zero area"),
        ({"xmax": "102"}, "outside"),
        ({"ymax": "82"}, "outside"),
        ({"xmin": "-1"}, "outside"),
        ({"ymin": "-0.5"}, "outside"),
        ({"xmin": "101", "xmax": "101.5"}, "outside"),
        ({"xmax": "1e300"}, "outside"),
        ({"xmin": "left"}, "not numeric"),
        ({"xmin": ""}, "not numeric"),
        ({"ymax": "nan"}, "not finite"),
        ({"ymax": "inf"}, "not finite"),
        ({"xmin": "-inf"}, "not finite"),
    ],
)
def test_bad_boxes(voc, corners, expected):
    text = refused_annotation(voc, annotation_xml(object_xml(**corners)))
    assert expected in text and "'cat'" in text
    assert all(repr(value) in text for value in corners.values())


def test_bad_annotations(voc):
    assert "broken XML" in refused_annotation(voc, "<annotation><object>")
    assert "broken XML" in refused_annotation(voc, "")
    assert "root element" in refused_annotation(voc, "<html></html>")
    assert "without a name" in refused_annotation(voc, annotation_xml(object_xml(" ")))
    nothing = "<object><name>cat</name></object>"
    assert "no bndbox" in refused_annotation(voc, annotation_xml(nothing))
    maybe = object_xml(extra="<difficult>perhaps</difficult>")
    assert "'perhaps'" in refused_annotation(voc, annotation_xml(maybe))
    no_corner = object_xml().replace("<xmin>11</xmin>", "")
    assert "xmin=None" in refused_annotation(voc, annotation_xml(no_corner))
    refused_annotation(voc, '<?xml version="1.0" encoding="no-such"?><annotation/>')
    (voc / "Annotations" / "one.xml").write_bytes(b"\xff\xfe\x00\x01\x02")
    assert "broken XML" in refusal(voc)


def test_entity_bombs_are_refused(voc):
    laughs = '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">'
    bomb = f"<!DOCTYPE annotation [{laughs}]>" + annotation_xml(object_xml("&b;"))
    assert "broken XML" in refused_annotation(voc, bomb)
    leak = '<!DOCTYPE annotation [<!ENTITY a SYSTEM "file:///etc/hostname">]>'
    assert "broken XML" in refused_annotation(voc, leak + annotation_xml(object_xml("&a;")))


def test_classes_given_keep_their_order_and_leave_out_others(voc):
    dataset = open_dataset(voc, "train", classes=["dog", "cat"])
    assert dataset.classes == ("dog", "cat")
    assert dataset.photographs[0].labels.classes.tolist() == [1]
    assert dataset.left_out == {}
    boxes = "".join(object_xml(name) for name in ("bird", "cat", "bird"))
    (voc / "Annotations" / "one.xml").write_text(annotation_xml(boxes))
    dataset = open_dataset(voc, "train", classes=["dog", "cat"])
    assert dataset.photographs[0].labels.classes.tolist() == [1]
    assert dataset.left_out == {"bird": 2}
    text = refusal(voc, classes=["dog", "cow"])
    assert "none of the classes dog, cow" in text and "bird, cat" in text and str(voc) in text


@pytest.mark.parametrize("classes", [[], ["cat", "cat"], ["cat", " "], "cat"])
def test_bad_classes(voc, classes):
    assert "classes" in refusal(voc, classes=classes)


def test_a_set_without_any_object_has_no_class(voc):
    (voc / "Annotations" / "one.xml").write_text(annotation_xml())
    assert "at least one name" in refusal(voc)
    assert len(open_dataset(voc, "train", classes=["cat"]).photographs[0].labels) == 0


def test_splits(voc):
    main = voc / "ImageSets" / "Main"
    for name in ("val", "trainval", "cat_val"):
        (main / f"{name}.txt").write_text("one\n")
    text = refusal(voc, "test")
    assert "test.txt" in text and "there are: train, trainval, val, cat_val" in text
    (main / "cat_val.txt").write_text("\ufeffone -1\r\n\r\n", encoding="utf-8")
    assert [p.name for p in open_dataset(voc, "cat_val")] == ["one"]
    (main / "val.txt").write_text("\n \n")
    assert "is empty" in refusal(voc, "val")
    (main / "val.txt").write_text("one  1\none -1\n")
    text = refusal(voc, "val")
    assert "val.txt" in text and "'one' stands twice" in text
    (main / "val.txt").write_bytes(b"\xff\xfe\xfa")
    assert "cannot be read" in refusal(voc, "val")
    shutil.rmtree(main)
    assert "holds none" in refusal(voc)


def test_cvats_only_split_is_taken_whatever_is_asked(voc):
    main = voc / "ImageSets" / "Main"
    (main / "train.txt").rename(main / "default.txt")
    for split in ("trainval", "test"):
        dataset = open_dataset(voc, split, strict=True)
        assert dataset.split == "all" and len(dataset) == 1
    (main / "LABEL_default.txt").write_text("one 1\n")  # of tags of whole photographs
    assert open_dataset(voc, "trainval").split == "all"
    (main / "LABEL_default.txt").unlink()
    (main / "val.txt").write_text("one\n")
    assert "there are: default, val" in refusal(voc, "trainval")


def test_missing_files_are_named(voc):
    add_photograph(voc, "two")
    (voc / "Annotations" / "two.xml").unlink()
    text = refusal(voc)
    assert str(voc / "Annotations" / "two.xml") in text and "train.txt" in text
    (voc / "JPEGImages" / "two.jpg").unlink()
    text = refusal(voc)
    assert str(voc / "JPEGImages" / "two.jpg") in text and "train.txt" in text


def test_bad_photographs(voc):
    assert "--max-side" in refusal(voc, max_side=99)
    (voc / "JPEGImages" / "one.jpg").write_bytes(b"")
    assert "one.jpg: is empty" in refusal(voc)


def test_check_photographs_finds_what_headers_hide(voc):
    noise = np.random.default_rng(0).integers(0, 256, (80, 100, 3), dtype=np.uint8)
    for name in ("a", "b", "c", "d"):
        add_photograph(voc, name)
        path = voc / "JPEGImages" / f"{name}.jpg"
        Image.fromarray(noise).save(path)
        if name in "bd":
            path.write_bytes(path.read_bytes()[:3000])
    dataset = open_dataset(voc, "train")
    for workers in (None, 1, 3):
        errors = check_photographs(dataset, workers=workers)
        assert [type(error) for error in errors] == [DataError] * 2
        assert "b.jpg: damaged JPEG" in str(errors[0]) and "d.jpg" in str(errors[1])
    assert len(check_photographs(dataset, 50, workers=2)) == 5


def test_what_is_no_set(tmp_path):
    assert "no such file or folder" in refusal(tmp_path / "absent")
    text = refusal(tmp_path)
    assert "VOC folder" in text and "COCO" in text and "YOLO" in text
    (tmp_path / "notes.txt").write_text("x")
    assert "not a labelled set" in refusal(tmp_path / "notes.txt")


def test_sets_are_joined_in_their_order(tmp_path):
    root = make_synthetic_set(tmp_path / "voc", train=3, val=2, test=1, seed=0)
    train, val, both = (
        open_dataset(root, split, SYNTHETIC_CLASSES) for split in ("train", "val", "trainval")
    )
    joined = join_sets([val, train])
    assert [one.name for one in joined] == [one.name for one in (*val, *train)]
    assert {one.name for one in joined} == {one.name for one in both}
    by_name = {one.name: one for one in both}
    for one in joined:
        np.testing.assert_array_equal(one.labels.boxes, by_name[one.name].labels.boxes)
    assert join_sets([train]) == train


def test_sets_that_do_not_fit_are_not_joined(tmp_path):
    root = make_synthetic_set(tmp_path / "voc", train=2, val=2, test=1, seed=0)
    train, val = (open_dataset(root, split, SYNTHETIC_CLASSES) for split in ("train", "val"))
    with pytest.raises(DataError, match="same name"):
        join_sets([train, val, train])
    other = dataclasses.replace(val, classes=tuple(reversed(val.classes)))
    with pytest.raises(DataError, match="has the classes"):
        join_sets([train, other])


def add_pair(photo, annotation, *names):
    for path in (photo, annotation):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (100, 80)).save(photo)
    annotation.write_text(annotation_xml(*(object_xml(name) for name in names)))


@pytest.mark.parametrize(
    ("photos", "annotations"),
    [
        ("images", "annotations"),
        ("Images", "labels"),
        (".", "."),
        ("JPEGImages", "Annotations"),
        ("deep/photos", "deep/xml"),
    ],
)
def test_a_folder_as_labelimg_leaves_it(tmp_path, photos, annotations):
    root = tmp_path / "set"
    add_pair(root / photos / "b.JPG", root / annotations / "b.XML", "dog", "cat")
    add_pair(root / photos / "a.png", root / annotations / "a.xml", "dog")
    Image.new("RGB", (5, 5)).save(root / photos / "bare.jpg")
    (root / annotations / ".hidden.xml").write_text("no annotation")
    assert is_labelled(root)
    dataset = open_dataset(root, "trainval")
    assert (dataset.split, dataset.classes) == ("all", ("cat", "dog"))
    assert [(p.name, p.labels.classes.tolist()) for p in dataset] == [("a", [1]), ("b", [1, 0])]
    assert dataset.photographs[0].labels.boxes.tolist() == [[10, 20, 40, 60]]
    bare = str(Path(photos) / "bare.jpg")
    assert dataset.notes == (f"1 photographs without an .xml left out: {bare}",)
    assert open_dataset(root, "trainval", ["dog"]).left_out == {"cat": 1}


def test_a_folder_of_annotations_with_folders_as_splits(tmp_path):
    for split, names in (("train", "ab"), ("valid", "c"), ("test", "a")):
        for name in names:
            folder = tmp_path / split
            add_pair(folder / f"{name}.jpg", folder / f"{name}.xml", "cat")
    for split, names in (("train", "ab"), ("val", "c"), ("trainval", "abc"), ("test", "a")):
        dataset = open_dataset(tmp_path, split)
        assert ("".join(p.name for p in dataset), dataset.split) == (names, split)
    assert open_dataset(tmp_path, "test").photographs[0].path == tmp_path / "test" / "a.jpg"
    assert "'a' is used twice" in refusal(tmp_path, "everything")


def test_annotations_that_cannot_be_matched(tmp_path):
    add_pair(tmp_path / "one" / "a.jpg", tmp_path / "xml" / "a.xml", "cat")
    assert len(open_dataset(tmp_path, "all")) == 1
    add_pair(tmp_path / "two" / "a.jpg", tmp_path / "xml" / "a.xml", "cat")
    assert "several photographs have its name" in refusal(tmp_path)
    (tmp_path / "two" / "a.jpg").rename(tmp_path / "two" / "b.jpg")
    add_pair(tmp_path / "one" / "a.jpg", tmp_path / "one" / "a.xml", "cat")
    assert "is of the same photograph, too" in refusal(tmp_path)
    (tmp_path / "one" / "a.jpg").rename(tmp_path / "one" / "c.jpg")
    assert "no photograph of this name" in refusal(tmp_path)
    (tmp_path / "xml" / "a.xml").unlink()
    (tmp_path / "one" / "a.xml").rename(tmp_path / "one" / "c.xml")
    (tmp_path / "one" / "c.xml").write_text("<annotation>")
    assert "c.xml: broken XML" in refusal(tmp_path)
