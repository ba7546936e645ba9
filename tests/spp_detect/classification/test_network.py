"""Classifiers: layers, sizes of inputs, folders, norms that are folded away."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from spp_detect.classification.config import NO_PYRAMID, ClassifierConfig, config_from_json
from spp_detect.classification.network import (
    Classifier,
    ClassifierError,
    is_classifier,
    load_classifier,
    read_config,
    save_classifier,
)
from spp_detect.classification.norms import add_norms, fold_norms
from spp_detect.config import ConfigError

CLASSES = ("cat", "dog", "owl")


def make_network(seed=0, **settings):
    torch.manual_seed(seed)
    settings = {"backbone": "small5", "fc_width": 24} | settings
    return Classifier(ClassifierConfig(**settings), CLASSES).eval()


def test_a_classifier_by_hand():
    """Maps, pyramid, two fc layers and scores, written out with torch's functions."""
    network = make_network(levels=(2, 1), fc_width=7)
    pixels = torch.randn(2, 3, 70, 90)
    maps = network.trunk.layers(pixels)
    pooled = torch.cat([functional.adaptive_max_pool2d(maps, n).flatten(1) for n in (2, 1)], 1)
    weights = network.state_dict()
    fc6 = pooled @ weights["fc.layers.fc6.weight"].T + weights["fc.layers.fc6.bias"]
    fc7 = fc6.relu() @ weights["fc.layers.fc7.weight"].T + weights["fc.layers.fc7.bias"]
    expected = fc7.relu() @ weights["fc8.weight"].T + weights["fc8.bias"]
    torch.testing.assert_close(network(pixels), expected)


@pytest.mark.parametrize(
    ("backbone", "side"), [("zf5", 13), ("convnet5", 13), ("overfeat5", 18), ("overfeat7", 18)]
)
def test_without_a_pyramid_maps_are_pooled_as_by_the_papers_last_pooling(backbone, side):
    """3/2 on 13 cells, 3/3 on 18: both give 6 × 6, which one level of 6 must equal."""
    stride = {13: 2, 18: 3}[side]
    network = Classifier(ClassifierConfig(backbone, levels=NO_PYRAMID, fc_width=8), CLASSES)
    maps = torch.randn(2, network.trunk.channels, side, side)
    expected = functional.max_pool2d(maps, 3, stride).flatten(1)
    assert expected.shape[1] == 36 * network.trunk.channels
    assert torch.equal(network.pyramid(maps), expected)


def test_any_size_with_a_pyramid_one_without():
    network = make_network()
    for height, width in ((100, 1000), (333, 100), (64, 64)):
        assert network(torch.zeros(1, 3, height, width)).shape == (1, 3)
    fixed = make_network(levels=NO_PYRAMID, sizes=(96,))
    assert fixed(torch.zeros(1, 3, 96, 96)).shape == (1, 3)
    with pytest.raises(ClassifierError, match="images of 90 x 96 pixels: expected 96 x 96"):
        fixed(torch.zeros(1, 3, 96, 90))


def test_a_classifier_comes_back_from_its_folder(tmp_path):
    network = make_network(seed=3, sizes=(96, 64))
    save_classifier(network, tmp_path)
    back = load_classifier(tmp_path)
    assert (back.config, back.classes, back.training) == (network.config, CLASSES, False)
    pixels = torch.randn(2, 3, 64, 80)
    assert torch.equal(back(pixels), network(pixels))
    assert is_classifier(tmp_path)
    assert read_config(tmp_path) == network.config


def spoil_format(folder):
    text = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(text | {"format": "spp-detect model"}))


def spoil_width(folder):
    text = json.loads((folder / "config.json").read_text())
    text["config"]["fc_width"] = 25
    (folder / "config.json").write_text(json.dumps(text))


def spoil_key(folder):
    text = json.loads((folder / "config.json").read_text())
    text["config"]["depth"] = 1
    (folder / "config.json").write_text(json.dumps(text))


def spoil_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["fc8.bias"]
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no such file, expected a classifier's"),
        (lambda folder: (folder / "config.json").write_text("{"), "not a classifier's description"),
        (lambda folder: (folder / "config.json").write_text("[]"), "not a classifier's descripti"),
        (spoil_format, "expected a file of format 'spp-detect classifier'"),
        (spoil_key, "not a classifier's constants.*depth"),
        (spoil_width, "not the weights that config.json describes: size mismatch.*fc6"),
        (spoil_tensor, "not the weights that config.json describes: Missing key.*fc8.bias"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x"), "not a whole safetens"),
    ],
)
def test_a_broken_folder_is_told_in_one_line(tmp_path, spoil, match):
    save_classifier(make_network(), tmp_path)
    spoil(tmp_path)
    with pytest.raises((ClassifierError, ConfigError), match=match) as caught:
        load_classifier(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"levels": NO_PYRAMID, "sizes": (224, 180)}, "expected one, without a pyramid"),
        ({"random_sizes": True}, "expected two sizes"),
        ({"sizes": ()}, "expected sides"),
        ({"sizes": (8,)}, "expected sides"),
        ({"levels": (0,)}, "expected positive integers"),
        ({"start": "cold"}, "expected one of normal, normed"),
        ({"rate": float("nan")}, "rate"),
        ({"epochs": 0}, "epochs 0"),
        ({"epochs": 1.5}, "epochs 1.5: expected int"),
    ],
)
def test_wrong_constants(settings, match):
    with pytest.raises(ConfigError, match=match):
        ClassifierConfig(**settings)


def test_lists_of_json_are_tuples():
    assert config_from_json({"sizes": [96, 64]}) == ClassifierConfig(sizes=(96, 64))


def test_folded_norms_change_nothing():
    """A network whose batch norms have seen something gives the same without them."""
    network = make_network(backbone="zf5", fc_width=16, levels=(2, 1))
    names = list(network.state_dict())
    for part in (network.trunk, network.fc):
        add_norms(part)
    network.train()
    for _ in range(3):
        network(torch.randn(4, 3, 96, 80) * 3 + 1)
    network.eval()
    pixels = torch.randn(2, 3, 70, 90)
    with torch.no_grad():
        before = network(pixels)
        assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 5
        fold_norms(network)
        after = network(pixels)
    assert list(network.state_dict()) == names
    assert not any("BatchNorm" in type(m).__name__ for m in network.modules())
    spread = float(before.std())
    np.testing.assert_allclose(after.numpy(), before.numpy(), atol=1e-4 * max(1.0, spread))
