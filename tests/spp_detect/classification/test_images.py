"""Images with a class each: folders by class, labelled boxes, what is held out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import (
    DataError,
    LabelledSet,
    Labels,
    Photograph,
    list_split_folders,
    open_image_folder,
    read_photo,
)
from spp_detect.classification.config import ClassifierConfig
from spp_detect.classification.images import (
    cut_boxes,
    hold_out,
    list_images,
    open_any_images,
    open_images,
)
from spp_detect.training.pretraining_run import open_training_images


def fill(folder, counts):
    """A folder of small images for each class; each image is of one value."""
    for value, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (12, 9), (value, i, 0)).save(folder / name / f"{i:03}.png")
    return folder


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        ({}, "holds no folder of a class"),
        ({"a": 2}, "holds only one class's folder, a"),
        ({"a": 2, "b": 0}, "b: holds no image"),
    ],
)
def test_folders_that_are_no_image_folders(tmp_path, counts, match):
    fill(tmp_path, counts)
    with pytest.raises(DataError, match=match) as caught:
        open_images(tmp_path, "trainval")
    assert "\n" not in str(caught.value)


def test_other_classes_than_the_networks(tmp_path):
    fill(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(DataError, match="has the classes a, b; expected a, c"):
        open_images(tmp_path, "test", ("a", "c"))
    assert open_images(tmp_path, "test", ("b", "a")).labels.tolist() == [0, 1]


def test_splits_are_folders_around_the_classes(tmp_path):
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "val", {"a": 1, "b": 1})
    assert len(open_images(tmp_path, "trainval")) == 4
    assert len(open_images(tmp_path, "test")) == 2
    with pytest.raises(DataError, match="no split odd; it has train, val"):
        open_images(tmp_path, "odd")


def make_set(folder):
    """Two photographs with a pixel pattern, three easy boxes and a difficult one."""
    photos = []
    for n in range(2):
        values = np.arange(20 * 30 * 3, dtype=np.int64).reshape(20, 30, 3) + 7 * n
        Image.fromarray((values % 251).astype(np.uint8)).save(folder / f"{n}.png")
        boxes = np.array([[2.4, 3, 9.5, 12], [0, 0, 30, 20]], np.float32)
        difficult = np.array([False, n == 1])
        labels = Labels(boxes, np.array([n, 2]), difficult)
        photos.append(Photograph(str(n), folder / f"{n}.png", 30, 20, labels))
    return LabelledSet(folder, "train", ("a", "b", "c"), tuple(photos))


def test_boxes_are_cut_out_of_their_photographs(tmp_path):
    images = cut_boxes(make_set(tmp_path))
    assert images.labels.tolist() == [0, 2, 1]
    assert [piece.box for piece in images.pieces] == [
        (2, 3, 10, 12),
        (0, 0, 30, 20),
        (2, 3, 10, 12),
    ]
    read = list(images.read())
    first = read_photo(tmp_path / "0.png")
    assert np.array_equal(read[0], first[3:12, 2:10])
    assert np.array_equal(read[1], first)
    assert np.array_equal(read[2], read_photo(tmp_path / "1.png")[3:12, 2:10])


def test_a_damaged_file_is_an_error_of_each_of_its_images(tmp_path):
    images = cut_boxes(make_set(tmp_path))
    (tmp_path / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    read = list(images.read())
    assert [isinstance(one, DataError) for one in read] == [True, True, False]


def test_held_out_images_are_of_other_files_and_all_classes(tmp_path):
    fill(tmp_path, {"a": 40, "b": 20})
    images = list_images(open_image_folder(tmp_path))
    learn, held = hold_out(images, 0.1, seed=1)
    assert np.bincount(held.labels).tolist() == [4, 2]
    paths = [{p.path for p in one.pieces} for one in (images, learn, held)]
    assert paths[0] == paths[1] | paths[2]
    assert not {p.path for p in learn.pieces} & {p.path for p in held.pieces}
    other = hold_out(images, 0.1, seed=2)[1]
    assert {p.path for p in other.pieces} != {p.path for p in held.pieces}


def test_objects_of_one_photograph_stay_together(small_set):
    images = cut_boxes(small_set)
    learn, held = hold_out(images, 0.3, seed=0)
    assert len(learn) + len(held) == len(images)
    assert not {p.path for p in learn.pieces} & {p.path for p in held.pieces}


def test_labels_are_known_where_folders_are_named_as_classes(tmp_path):
    fill(tmp_path / "named", {"a": 1, "b": 2})
    fill(tmp_path / "other", {"x": 1, "y": 2})
    named, has_labels = open_any_images(tmp_path / "named", "test", ("a", "b"))
    assert has_labels
    assert named.labels.tolist() == [0, 1, 1]
    other, has_labels = open_any_images(tmp_path / "other", "test", ("a", "b"))
    assert not has_labels
    assert len(other) == 3
    one, has_labels = open_any_images(tmp_path / "other" / "x" / "000.png", "test", ("a", "b"))
    assert (len(one), has_labels) == (1, False)


def test_a_class_may_be_called_as_a_split_is(tmp_path):
    """VOC has a class train."""
    fill(tmp_path, {"train": 3, "boat": 2})
    images = open_images(tmp_path, "trainval")
    assert (images.classes, len(images)) == (("boat", "train"), 5)


def test_classes_stand_beside_one_that_is_called_as_a_split_is(tmp_path):
    """Its images lie in folders of their own, as they may."""
    fill(tmp_path, {"boat": 2, "bus": 1})
    fill(tmp_path / "train", {"steam": 3, "electric": 4})
    assert list_split_folders(tmp_path) == []
    images = open_images(tmp_path, "trainval")
    assert (images.classes, len(images)) == (("boat", "bus", "train"), 10)


def test_a_split_without_folders_of_classes(tmp_path):
    """As ImageNet's val is before it is sorted."""
    fill(tmp_path / "train", {"a": 20, "b": 20})
    (tmp_path / "val").mkdir()
    for n in range(3):
        Image.new("RGB", (12, 9)).save(tmp_path / "val" / f"{n}.png")
    (tmp_path / "devkit").mkdir()
    assert list_split_folders(tmp_path) == ["train", "val"]
    images, has_labels = open_any_images(tmp_path, "val", ("a", "b"))
    assert (len(images), has_labels) == (3, False)
    learn, held = open_training_images(tmp_path, "trainval", ClassifierConfig(), 1000)
    assert (len(learn), len(held)) == (36, 4)


def test_a_share_is_held_out_of_small_classes_together(tmp_path):
    fill(tmp_path, dict.fromkeys([f"c{n:02}" for n in range(40)], 5))
    images = list_images(open_image_folder(tmp_path))
    learn, held = hold_out(images, 0.1, seed=0)
    assert (len(learn), len(held)) == (180, 20)
    assert max(np.bincount(held.labels)) == 1


def test_of_a_sliver_a_pixel_is_left():
    boxes = np.array([[30, 5, 30, 9], [7, 8, 7, 8], [29.5, 19.5, 40, 40], [-3, -3, 0, 0]])
    labels = Labels(boxes.astype(np.float32), np.zeros(4, int), np.zeros(4, bool))
    photograph = Photograph("0", Path("0.png"), 30, 20, labels)
    images = cut_boxes(LabelledSet(Path(), "train", ("a", "b"), (photograph,)))
    assert [piece.box for piece in images.pieces] == [
        (29, 5, 30, 9),
        (7, 8, 8, 9),
        (29, 19, 30, 20),
        (0, 0, 1, 1),
    ]


def test_what_is_wrong_with_a_labelled_set_is_told(tmp_path, small_voc, caplog):
    voc = tmp_path / "voc"
    shutil.copytree(small_voc, voc)
    whole = open_images(voc, "trainval")
    assert (whole.left_out, caplog.messages) == (0, [])
    spoilt = whole.pieces[0].path
    spoilt.write_bytes(b"")
    images = open_images(voc, "trainval")
    assert images.left_out == 1
    assert {p.path for p in images.pieces} == {p.path for p in whole.pieces} - {spoilt}
    assert "1 x photograph left out" in caplog.text
    assert spoilt.name in caplog.text


def test_folders_of_other_names_than_the_classes_are_told(tmp_path, caplog):
    fill(tmp_path, {"rose": 1, "sky": 1})
    images, has_labels = open_any_images(tmp_path, "test", ("red", "sea"))
    assert (len(images), has_labels) == (2, False)
    assert "rose, sky are none of the network's classes" in caplog.text


def test_each_class_is_learnt_however_few_its_images(tmp_path):
    fill(tmp_path, {"a": 1, "b": 30, "c": 2})
    images = list_images(open_image_folder(tmp_path))
    for seed in range(5):
        learn, held = hold_out(images, 0.5, seed)
        assert set(learn.labels) == {0, 1, 2}
        assert len(held) == 16
    few = images.choose(np.array([0, 1]))
    with pytest.raises(DataError, match="2 images: expected more than one file of a class"):
        hold_out(few, 0.1, seed=0)


def test_a_test_folder_may_lack_a_class(tmp_path):
    fill(tmp_path, {"b": 2})
    images = open_images(tmp_path, "test", ("a", "b", "c"))
    assert (images.classes, images.labels.tolist()) == (("a", "b", "c"), [1, 1])


def test_a_folder_val_is_held_out_but_not_of_labelled_sets(tmp_path, small_voc):
    fill(tmp_path / "train", {"a": 2, "b": 2})
    fill(tmp_path / "valid", {"a": 1, "b": 1})
    config = ClassifierConfig()
    learn, held = open_training_images(tmp_path, "trainval", config, 1000)
    assert (len(learn), len(held)) == (4, 2)
    yolo = tmp_path / "yolo"
    for split in ("train", "val"):
        (yolo / split / "images").mkdir(parents=True)
        (yolo / split / "labels").mkdir()
        for n in range(6):
            name = f"{split}{n}"
            Image.new("RGB", (40, 30)).save(yolo / split / "images" / f"{name}.jpg")
            (yolo / split / "labels" / f"{name}.txt").write_text(f"{n % 2} 0.5 0.5 0.5 0.5\n")
    (yolo / "classes.txt").write_text("a\nb\n")
    learn, held = open_training_images(yolo, "trainval", config, 1000)
    assert len(learn) + len(held) == 12
    assert not {p.path for p in learn.pieces} & {p.path for p in held.pieces}
