"""The commands: a classifier trained, resumed, used, measured, and a detector with its trunk."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional

from spp_detect import cli
from spp_detect.backbones import build_backbone, load_weights, read_fc_weights
from spp_detect.classification.classify import VIEWS_AT_ONCE, classify, measure_errors
from spp_detect.classification.config import NO_PYRAMID, ClassifierConfig
from spp_detect.classification.image_features import list_fc_features
from spp_detect.classification.images import Images, Piece
from spp_detect.classification.network import Classifier, ClassifierError, load_classifier
from spp_detect.classification.views import Viewer
from spp_detect.fc import FcLayers
from spp_detect.training.assembly import adopt_classifier

CPU = torch.device("cpu")
QUICK = ("--backbone", "small5", "--fc-width", "12", "--sizes", "48,40", "--levels", "2,1")


def run(*words):
    """Run a command in this process: its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["spp-detect", *map(str, words)])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Two classes that colour tells apart."""
    folder = tmp_path_factory.mktemp("colours") / "set"
    random = np.random.default_rng(0)
    for n in range(32):
        name, colour = (("red", (220, 30, 20)), ("sea", (20, 60, 210)))[n % 2]
        image = random.normal(colour, 25, (50, 70, 3)).clip(0, 255).astype(np.uint8)
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{n:02}.png")
    return folder


@pytest.fixture(scope="module")
def classifier(colours, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "colours"
    words = ("--epochs", 12, "--batch", 8, "--start", "normed", "--rate", 0.004)
    assert run("pretrain", colours, "--out", out, *QUICK, *words) == 0
    return out


def test_a_run_leaves_its_model_and_what_it_measured(classifier, colours, capsys):
    numbers = json.loads((classifier / "metrics.json").read_text())
    assert numbers["held_out_error"] <= 0.5
    assert numbers["images"] + numbers["held_out"] == 32
    assert not list((classifier / "work").iterdir())
    before = (classifier / "model.safetensors").read_bytes()
    assert run("pretrain", "--resume", "--out", classifier) == 0  # done already
    assert (classifier / "model.safetensors").read_bytes() == before
    assert run("pretrain", colours, "--out", classifier) == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert run("pretrain", "--resume", "--out", classifier, "--epochs", 5) == 2
    assert "epochs 12, now it is 5" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_images(classifier, colours, tmp_path, capsys):
    """As many of the same classes, but not the same."""
    other = tmp_path / "set"
    for path in colours.rglob("*.png"):
        (other / path.parent.name).mkdir(parents=True, exist_ok=True)
        (other / path.parent.name / f"new_{path.name}").write_bytes(path.read_bytes())
    assert run("pretrain", other, "--resume", "--out", classifier) == 2
    assert "begun with other fingerprint" in capsys.readouterr().err


def test_what_is_refused_can_be_begun_anew(colours, tmp_path, capsys):
    out = tmp_path / "run"
    words = (*QUICK, "--epochs", 1, "--start", "normed")
    assert run("pretrain", colours, "--out", out, *words, "--batch", 1) == 2
    assert "for batch norms" in capsys.readouterr().err
    assert run("pretrain", colours, "--out", out, *words, "--batch", 8) == 0


def test_a_run_that_is_stopped_at_once_goes_on(colours, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    out = tmp_path / "run"
    words = (*QUICK, "--epochs", 1, "--batch", 8, "--max-side", 71)
    with monkeypatch.context() as patch:
        patch.setattr("spp_detect.training.image_crops.measure_colours", stop)
        assert run("pretrain", colours, "--out", out, *words) == 130
    assert run("pretrain", "--resume", "--out", out, "--max-side", 70) == 2
    assert run("pretrain", "--resume", "--out", out) == 0
    assert json.loads((out / "run.json").read_text())["max_side"] == 71


def test_a_damaged_photograph_of_a_set_is_named(classifier, tmp_path, capsys):
    """Of a labelled set, which is opened by its annotations."""
    for n in range(3):
        Image.new("RGB", (60, 50), (200, 20, 20)).save(tmp_path / f"{n}.jpg")
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 40, 40]} for n in range(3)]
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 60, "height": 50} for n in range(3)]
    told = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "set.json").write_text(json.dumps(told))
    assert run("classify", classifier, tmp_path / "set.json") == 0
    (tmp_path / "1.jpg").write_bytes(b"")
    capsys.readouterr()
    assert run("classify", classifier, tmp_path / "set.json", "--out", tmp_path / "out") == 2
    assert "1.jpg" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "classes.json").read_text())) == 2


def test_names_that_are_no_utf8(colours, classifier, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(colours, folder)
    try:
        (folder / "red" / "00.png").rename(folder / "red" / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    words = (*QUICK, "--epochs", 1, "--batch", 8)
    assert run("pretrain", folder, "--out", tmp_path / "run", *words) == 0
    assert run("classify", classifier, folder, "--out", tmp_path / "out") == 0
    assert "\\xff.png" in (tmp_path / "out" / "classes.csv").read_text()


def test_folders_of_splits_are_no_classes_to_transfer_to(tmp_path, colours, capsys):
    for split in ("train", "val"):
        shutil.copytree(colours, tmp_path / split)
    words = ("--backbone", "small5", "--weights", "none")
    assert run("transfer", tmp_path, *words) == 2
    assert "holds the splits train, val; expected one of them" in capsys.readouterr().err


def test_results_do_not_go_where_the_classifier_lies(classifier, colours, capsys):
    before = (classifier / "metrics.json").read_bytes()
    assert run("classify", classifier, colours, "--out", classifier) == 2
    assert "expected another folder than RUN's" in capsys.readouterr().err
    assert (classifier / "metrics.json").read_bytes() == before


@pytest.mark.parametrize("views", ["centre", "all"])
def test_a_folder_with_labels_is_measured(classifier, colours, tmp_path, capsys, views):
    assert run("classify", classifier, colours, "--views", views, "--out", tmp_path) == 0
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    told = json.loads((tmp_path / "classes.json").read_text())
    assert numbers["top1_error"] <= 0.1
    assert numbers["top5_error"] == 0
    wrong = [one["classes"][0]["class"] not in one["file"] for one in told]
    assert np.mean(wrong) == pytest.approx(numbers["top1_error"])
    assert f"top-1 error {numbers['top1_error']:.4f}" in capsys.readouterr().out


def test_a_folder_without_labels_is_named(classifier, colours, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes((colours / "red" / "00.png").read_bytes())
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (photos / "z.png").write_bytes((colours / "sea" / "01.png").read_bytes())
    assert run("classify", classifier, photos, "--out", tmp_path / "named") == 2
    out, err = capsys.readouterr()
    assert [line.split(": ")[1].split()[0] for line in out.splitlines()] == ["red", "sea"]
    assert err.count(str(photos / "bad.png")) == 1
    with (tmp_path / "named" / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["red", "sea", "sea", "red"]
    pairs = np.array([float(row["probability"]) for row in rows]).reshape(2, 2)
    np.testing.assert_allclose(pairs.sum(1), 1, atol=1e-5)
    assert not (tmp_path / "named" / "metrics.json").exists()


def test_each_image_has_its_own_answer_whichever_are_looked_at_together(colours, tmp_path):
    """More than the fc layers see at once, damaged ones among them."""
    torch.manual_seed(0)
    settings = {"backbone": "small5", "fc_depth": 0, "sizes": (48,), "precision": "float32"}
    viewer = Viewer(Classifier(ClassifierConfig(**settings), ("a", "b", "c")).eval(), CPU)
    with torch.no_grad():
        viewer.network.fc8.weight.mul_(30)
    paths = [*sorted(colours.rglob("*.png")), *sorted(colours.rglob("*.png"))]
    for n in (3, VIEWS_AT_ONCE, 40):
        paths[n] = tmp_path / f"{n}.png"
        paths[n].write_bytes(b"")
    images = Images(tuple("abc"), tuple(map(Piece, paths)), np.full(len(paths), -1))
    scored = dict(classify(viewer, images, "ten", 10_000))
    assert list(scored) == [n for n in range(64) if n not in (3, VIEWS_AT_ONCE, 40)]
    alone = [viewer.look(np.asarray(Image.open(paths[n])), "ten") for n in scored]
    np.testing.assert_allclose(list(scored.values()), alone, atol=1e-6)
    assert np.ptp(alone, axis=0).max() > 1e-3
    many = dict(classify(viewer, images, "centre", 10_000))
    assert list(many) == list(scored)
    alone = [viewer.look(np.asarray(Image.open(paths[n])), "centre") for n in many]
    np.testing.assert_allclose(list(many.values()), alone, atol=1e-6)


def test_errors_by_hand():
    images = Images(tuple("abcdefg"), (Piece(None),) * 4, np.array([0, 0, 1, 5]))
    falling = np.arange(7, 0, -1) / 28  # a, b, c, …
    numbers = measure_errors([(0, falling), (2, falling), (3, falling)], images)
    assert numbers["top1_error"] == pytest.approx(2 / 3)
    assert numbers["top5_error"] == pytest.approx(1 / 3)
    assert (numbers["error"]["a"], numbers["error"]["b"], numbers["images"]) == (0, 1, 3)
    assert np.isnan(numbers["error"]["g"])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("classify", "absent", "photos"), "absent/config.json: no such file"),
        (("pretrain", "absent", "--out", "new"), "absent: no such folder"),
        (("pretrain", "--out", "new"), "no DATA to train on"),
        (("pretrain", "--resume", "--out", "new"), "no run there to go on with"),
        (("pretrain", "absent", "--out", "new", "--levels", "none", "--sizes", "64,48"), "pyramid"),
        (("pretrain", "absent", "--out", "new", "--sizes", "big"), "expected whole numbers"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, monkeypatch, capsys, words, match):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2
    assert match in capsys.readouterr().err.splitlines()[-1]


def test_one_class_and_empty_classes(tmp_path, capsys):
    (tmp_path / "set" / "a").mkdir(parents=True)
    assert run("pretrain", tmp_path / "set", "--out", tmp_path / "run") == 2
    assert "holds only one class's folder, a" in capsys.readouterr().err
    (tmp_path / "set" / "b").mkdir()
    assert run("pretrain", tmp_path / "set", "--out", tmp_path / "run") == 2
    assert "holds no image" in capsys.readouterr().err


def test_a_detectors_trunk_and_fc_layers_come_from_a_classifier(classifier):
    tensors = load_file(classifier / "model.safetensors")
    backbone = build_backbone("small5")
    assert load_weights(backbone, str(classifier)) == "colours"
    trunk = backbone.layers.state_dict()
    for name, tensor in trunk.items():
        assert name.endswith("num_batches_tracked") or torch.equal(
            tensor, tensors[f"trunk.layers.{name}"]
        )
    weights = read_fc_weights("small5", str(classifier))
    fc = FcLayers(128 * 5, 12, 2)
    assert fc.start_from(weights, 128, (2, 1))
    pooled = torch.randn(3, 128 * 5)
    own = {k.removeprefix("fc."): v for k, v in tensors.items() if k.startswith("fc.")}
    expected = FcLayers(128 * 5, 12, 2)
    expected.load_state_dict(own)
    assert torch.equal(fc.eval()(pooled), expected.eval()(pooled))
    settings = {"backbone": "small5", "levels": (2, 1), "fc_width": 12}
    assert adopt_classifier(str(classifier)) == settings
    assert adopt_classifier("imagenet") == {}


def test_from_classifier_to_detector(classifier, small_voc, tmp_path):
    """`train --weights RUN` takes the trunk, the pyramid and, with fine-tuning, the fc layers."""
    out = tmp_path / "detector"
    words = ["--out", out, "--weights", classifier, "--scales", 160, "--max-windows", 150]
    words += ["--finetune", 1, "--set", "finetune_rates=1e-12,1e-12", "--device", "cpu"]
    assert run("train", small_voc, *words) == 0
    config = json.loads((out / "config.json").read_text())["config"]
    assert config["backbone"] == "small5"
    assert config["levels"] == [2, 1]
    assert config["weights"] == "colours"
    model, own = (load_file(folder / "model.safetensors") for folder in (out, classifier))
    fc7 = next(tensor for name, tensor in model.items() if name.endswith("fc7.weight"))
    torch.testing.assert_close(fc7, own["fc.layers.fc7.weight"])


def test_fc_layers_of_another_pyramid_are_left(classifier, small_voc, tmp_path):
    """1, 2 has as many bins as 2, 1: the same number of values, in another order."""
    out = tmp_path / "detector"
    words = ["--out", out, "--weights", classifier, "--scales", 160, "--max-windows", 150]
    words += ["--finetune", 1, "--set", "finetune_rates=1e-12,1e-12", "--set", "levels=1,2"]
    assert run("train", small_voc, *words, "--device", "cpu") == 0
    model, own = (load_file(folder / "model.safetensors") for folder in (out, classifier))
    fc7 = next(tensor for name, tensor in model.items() if name.endswith("fc7.weight"))
    assert not torch.allclose(fc7, own["fc.layers.fc7.weight"], atol=1e-3)


def test_another_trunks_classifier_is_refused(classifier, small_voc, tmp_path, capsys):
    words = ["--out", tmp_path / "out", "--weights", classifier, "--backbone", "zf5"]
    assert run("train", small_voc, *words) == 2
    assert "not the weights of zf5" in capsys.readouterr().err


def test_a_classifiers_fc_layers_are_put_to_another_task(classifier, colours, tmp_path, capsys):
    words = ["--weights", classifier, "--train-images", 4, "--splits", 2, "--size", 48]
    assert run("transfer", colours, *words, "--features", "fc7", "--out", tmp_path) == 0
    numbers = json.loads((tmp_path / "transfer.json").read_text())
    assert numbers["accuracy"] >= 0.9
    assert (numbers["values"], numbers["backbone"]) == (12, "small5")
    assert run("transfer", colours, *words, "--features", "fc7", "--backbone", "zf5") == 2
    assert "expected none, or small5" in capsys.readouterr().err


def test_fc_features_by_hand(classifier):
    network = load_classifier(classifier)
    pixels = torch.randn(1, 3, 60, 48)
    with torch.no_grad():
        maps = network.trunk(pixels)
        found = list_fc_features(network, "full", 48)
        fc6 = functional.linear(network.pyramid(maps), *network.fc.layers.fc6.parameters()).relu()
        fc7 = functional.linear(fc6, *network.fc.layers.fc7.parameters()).relu()
        torch.testing.assert_close(found["fc6"](maps), fc6)
        torch.testing.assert_close(found["fc7"](maps), fc7)


def test_without_a_pyramid_fc_features_have_one_size():
    network = Classifier(ClassifierConfig("small5", levels=NO_PYRAMID, sizes=(96,)), ("a", "b"))
    assert list(list_fc_features(network, "warp", 96)) == ["fc6", "fc7"]
    for view, size in (("full", 96), ("crop", 224)):
        with pytest.raises(ClassifierError, match="expected crop or warp of size 96"):
            list_fc_features(network, view, size)
