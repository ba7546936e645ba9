"""Transfer to labels and to folders: its splits, by hand, on real photographs."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.svm import SVC

from data import (
    DataError,
    ImageSet,
    make_synthetic_set,
    open_dataset,
    open_image_folder,
    read_photo,
)
from spp_detect import cli
from spp_detect.backbones import build_backbone, load_weights
from spp_detect.classification.description import Description, multiply
from spp_detect.classification.image_features import ImageFeature
from spp_detect.classification.image_labels import label_photographs, measure_ap
from spp_detect.classification.transfer import (
    draw_split,
    transfer_to_folders,
    transfer_to_labels,
)
from spp_detect.classification.visual_words import describe_by_words, learn_words, make_view

CPU = torch.device("cpu")
OFTEN = ("person", "car", "cat", "aeroplane", "train")  # of VOC's, on the mini set


def mean_colour(photo):
    """Describe a photograph by its mean colour."""
    colour = photo.reshape(-1, 3).mean(axis=0).astype(np.float32) - 100
    return colour / np.linalg.norm(colour)


def by_colour(paths):
    return Description(mean_colour, multiply)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    root = make_synthetic_set(tmp_path_factory.mktemp("set") / "voc", train=30, val=20, test=25)
    classes = open_dataset(root, "trainval").classes
    return {name: open_dataset(root, name, classes) for name in ("train", "val", "test")}


@pytest.fixture
def colours(tmp_path):
    """Nine photographs each of red, green and blue noise."""
    random = np.random.default_rng(0)
    for k, name in enumerate(("red", "green", "blue")):
        (tmp_path / "colours" / name).mkdir(parents=True)
        for i in range(9):
            noise = random.integers(0, 100, (60, 80, 3), np.uint8)
            noise[..., k] += 150
            Image.fromarray(noise).save(tmp_path / f"colours/{name}/{i}.png")
    return tmp_path / "colours"


def test_a_labelled_set_is_measured_as_by_hand(parts):
    torch.manual_seed(0)
    feature = ImageFeature(build_backbone("small5"), "spp", "full", 64, CPU)
    asked = []

    def make(paths):
        asked.extend(paths)
        return Description(feature, multiply)

    result = transfer_to_labels(parts, make)
    learnt = [*parts["train"], *parts["val"]]
    assert asked == [one.path for one in learnt]  # nothing of test is learnt from
    assert result["val_mAP"][str(result["c"])] == max(result["val_mAP"].values())
    rows, tested = (
        np.stack([feature(read_photo(one.path)) for one in some])
        for some in (learnt, parts["test"])
    )
    labels = np.concatenate([label_photographs(parts[name]) for name in ("train", "val")])
    assert (labels == 0).any()
    scores = []
    for own in labels.T:
        svm = SVC(kernel="linear", C=result["c"])
        told = own != 0
        scores.append(svm.fit(rows[told], own[told]).decision_function(tested))
    expected = measure_ap(np.stack(scores, 1), label_photographs(parts["test"]))
    np.testing.assert_allclose([*result["ap"].values()], expected, atol=0.01)
    assert result["mAP"] == pytest.approx(np.mean([*result["ap"].values()]))
    assert result["photographs"] == {"train": 30, "val": 20, "test": 25}


def test_splits_are_disjoint_and_of_the_right_sizes():
    labels = np.repeat([0, 1, 2], [31, 60, 200])
    train, test = draw_split(labels, 30, np.random.default_rng(0))
    assert train.shape == (3, 30)
    assert not set(train.ravel()) & set(test)
    assert len(set(train.ravel())) == 90 and len(set(test)) == len(test)
    assert np.bincount(labels[test]).tolist() == [1, 30, 50]
    assert (labels[train] == [[0], [1], [2]]).all()
    again, _ = draw_split(labels, 30, np.random.default_rng(0))
    other, _ = draw_split(labels, 30, np.random.default_rng(1))
    assert (train == again).all() and (train != other).any()


def test_colours_are_told_apart(colours):
    result = transfer_to_folders(open_image_folder(colours), by_colour, 0, train_images=3, splits=2)
    assert result["accuracy"] == 1 and result["deviation"] == 0
    assert result["accuracy_by_class"] == {"blue": 1, "green": 1, "red": 1}


def test_accuracy_is_the_mean_of_the_classes_not_of_the_photographs(colours):
    """Whatever is shown, the same vector: one class is always told, right in all of its own."""
    images = open_image_folder(colours)
    kept = np.r_[0:9, 9:13, 18:23]
    images = ImageSet(images.classes, tuple(images.paths[i] for i in kept), images.labels[kept])

    def always(paths):
        return Description(lambda photo: np.ones(1, np.float32), multiply)

    result = transfer_to_folders(images, always, 0, train_images=3, splits=3)
    assert result["accuracy"] == pytest.approx(1 / 3)


def test_too_few_photographs(colours):
    with pytest.raises(DataError, match="class 'blue': 9 photographs; expected more than 9"):
        transfer_to_folders(open_image_folder(colours), by_colour, 0, train_images=9)


def test_a_class_that_training_never_shows(parts):
    unknown = {n: replace(p, classes=(*p.classes, "unicorn")) for n, p in parts.items()}
    with pytest.raises(DataError, match="no photograph of train shows 'unicorn'"):
        transfer_to_labels(unknown, by_colour)


def run_cli(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["spp-detect", "transfer", *map(str, words)])
    try:
        cli.main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_the_command_writes_what_it_printed(colours, tmp_path, monkeypatch, capsys):
    (colours / "red" / "9.png").write_bytes(b"no photograph")
    words = ("--train-images", 3, "--splits", 2, "--backbone", "small5", "--weights", "none")
    assert run_cli(monkeypatch, colours, *words, "--size", 64, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    (told,) = [line for line in printed.err.splitlines() if "9.png" in line]
    assert "left out" in told
    result = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert f"{100 * result['accuracy']:.1f} ±" in printed.out
    assert result["photographs"] == {"all": 27, "train_of_class": 3}
    assert (result["backbone"], result["view"], result["size"]) == ("small5", "full", 64)
    assert {"features", "weights", "seed", "seconds", "record"} <= result.keys()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--features", "fc7"], "without fc layers"),
        (["--features", "conv5"], "maps of full photographs"),
        (["--train-images", "9"], "expected more than 9"),
        (
            ["--features", "words", "--words", "9999", "--train-images", "3"],
            "words 9999: expected at most",
        ),
        (["--weights", "absent.pth"], "absent.pth: no such file"),
    ],
)
def test_mistakes_are_told_in_one_line(words, told, colours, monkeypatch, capsys):
    given = ["--size", 64, "--backbone", "small5", *words]
    if "--weights" not in words:
        given += ["--weights", "none"]
    assert run_cli(monkeypatch, colours, *given) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("spp-detect: error: ") and told in last


def test_other_data_is_told_in_one_line(colours, tmp_path, monkeypatch, capsys):
    voc = make_synthetic_set(tmp_path / "voc", train=2, val=2, test=2)
    (voc / "ImageSets/Main/val.txt").unlink()
    (tmp_path / "empty").mkdir()
    cases = (
        (voc, "has the splits test, train, trainval; expected train, val, test"),
        (tmp_path / "empty", "holds no folder of a class"),
        (tmp_path / "absent", "no such folder"),
    )
    for data, told in cases:
        assert run_cli(monkeypatch, data, "--backbone", "small5", "--weights", "none") == 2
        err = capsys.readouterr().err
        assert told in err.splitlines()[-1], err


def test_a_deep_trunk_is_far_above_words_on_real_photographs(mini_voc, shared_weights):
    parts = {}
    for name, count in (("train", 160), ("val", 80), ("test", 120)):
        whole = open_dataset(mini_voc, name, OFTEN)
        parts[name] = replace(whole, photographs=whole.photographs[:count])
    trunk = build_backbone("resnet18")
    load_weights(trunk, str(shared_weights / "resnet18_conv1_layer3.safetensors"))
    feature = ImageFeature(trunk, "spp", "full", 112, CPU)
    deep = transfer_to_labels(parts, lambda paths: Description(feature, multiply))
    view = make_view("full", 112)
    words = transfer_to_labels(
        parts,
        lambda paths: describe_by_words(learn_words(paths, view, 100, 0), view, pyramid=False),
    )
    assert deep["mAP"] > words["mAP"] + 0.15
    assert words["mAP"] > 0.1
