"""Trunks of timm: their grids beside the formula's, their weights, a detector on one of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from data import read_photo
from spp_detect import cli
from spp_detect.backbones import BACKBONES, WeightsError, build_backbone, load_weights
from spp_detect.backbones.timm_nets import measure_grid_by_gradient
from spp_detect.config import ConfigError
from spp_detect.detector import Detector
from spp_detect.inference_copy import InferenceCopy

timm = pytest.importorskip("timm")


# Of timm's nets cells 16 pixels apart are demanded; Overfeat's lie 12 apart.
MEASURED = [name for name in BACKBONES if name not in ("vgg16", "overfeat5", "overfeat7")]


@pytest.mark.parametrize("name", MEASURED)
def test_the_measured_grid_is_the_formulas(name):
    backbone = build_backbone(name)
    assert measure_grid_by_gradient(backbone.layers, name) == backbone.grid


@pytest.mark.parametrize(
    ("name", "channels", "centre"),
    [
        ("resnet18", 256, 0.0),  # as torchvision's
        ("test_convnext", 48, 7.5),  # patches of 4, then 2 and 2: 1.5 + 2 + 4
        ("test_efficientnet", 48, 0.0),
    ],
)
def test_nets_of_timm_are_trunks(name, channels, centre):
    backbone = build_backbone(f"timm:{name}")
    assert (backbone.grid.stride, backbone.grid.centre) == (16, centre)
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, 100, 164))
    assert maps.shape[:2] == (1, channels) == (1, backbone.channels)
    assert abs(maps.shape[2] - 6) <= 1 and abs(maps.shape[3] - 10) <= 1


@pytest.mark.parametrize("name", ["test_byobnet", "test_efficientnet", "test_convnext"])
def test_a_cut_net_computes_what_the_whole_one_does(tmp_path, name):
    torch.manual_seed(0)
    whole = timm.create_model(name).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    backbone = build_backbone(f"timm:{name}")
    load_weights(backbone, str(tmp_path / "whole.safetensors"))
    pixels = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        maps = whole.forward_intermediates(pixels, intermediates_only=True)
        (wanted,) = [one for one in maps[::-1] if one.shape[2:] == (4, 6)][:1]
        torch.testing.assert_close(backbone(pixels), wanted, atol=1e-5, rtol=1e-4)


def test_no_activation_is_lost_where_norms_are_folded():
    torch.manual_seed(0)
    backbone = build_backbone("timm:test_byobnet")
    assert any(type(layer) is not nn.BatchNorm2d for layer in backbone.modules())
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = backbone(pixels)
        found = InferenceCopy(backbone.layers, "float32")(pixels)
    assert (wanted == 0).any()  # it ends with one that cuts off
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm:nonsense", "timm has no such net"),
        ("timm:test_vit", "expected a net"),
        ("timm:efficientvit_b0", "and that each sees a part of the photograph"),
        ("nonsense", "or timm:NAME"),
    ],
)
def test_what_is_no_trunk_is_refused(name, words):
    with pytest.raises(ConfigError, match=words):
        build_backbone(name)


def test_without_timm_one_line_says_so(monkeypatch):
    monkeypatch.setattr("spp_detect.backbones.timm_nets.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"timm is not installed; expected the extra: pip inst"):
        build_backbone("timm:resnet18")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_a_file(tmp_path, suffix):
    torch.manual_seed(0)
    whole = timm.create_model("test_resnet").eval()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file(whole.state_dict(), path)
    backbone = build_backbone("timm:test_resnet")
    assert load_weights(backbone, str(path)) == path.name
    torch.testing.assert_close(backbone.layers.conv1[0].weight, whole.conv1[0].weight)
    torch.testing.assert_close(
        backbone.layers.layer3[-1].conv2.weight, whole.layer3[-1].conv2.weight
    )


def test_a_download_that_fails_is_one_line(monkeypatch):
    def fail(*args, **options):
        raise OSError("no\nnetwork")

    backbone = build_backbone("timm:test_resnet")
    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(WeightsError, match=r"timm cannot download .*\(no network\); give --wei"):
        load_weights(backbone, "imagenet")


def test_weights_of_another_net_and_pickles_are_refused(tmp_path):
    backbone = build_backbone("timm:test_resnet")
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not the weights of timm:test_resnet"):
        load_weights(backbone, str(tmp_path / "other.safetensors"))
    torch.save({"a": print}, tmp_path / "code.pth")
    with pytest.raises(WeightsError, match="not a whole state dict of tensors"):
        load_weights(backbone, str(tmp_path / "code.pth"))


def test_a_detector_is_trained_on_one_and_its_last_layers_learn(small_voc, tmp_path, monkeypatch):
    out = tmp_path / "run"
    options = "--backbone timm:test_resnet --weights none --scales 128 --max-windows 60"
    options += " --preset tuned-trunk --train-from layer3 --finetune 2"
    options += " --set norm_photographs=4 --set norm_windows=20"
    arguments = ["spp-detect", "train", str(small_voc), "--out", str(out), *options.split()]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match=r"^0$"):
        cli.main()
    detector = Detector.load(out, "cpu")
    assert detector.config.backbone == "timm:test_resnet"
    photo = read_photo(sorted((small_voc / "JPEGImages").iterdir())[0])
    again = Detector.load(out, "cpu").detect(photo)
    np.testing.assert_array_equal(detector.detect(photo).boxes, again.boxes)
