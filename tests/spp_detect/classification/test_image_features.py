"""Features of whole photographs, beside plain torch."""

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional

from spp_detect.backbones import build_backbone
from spp_detect.classification import image_features
from spp_detect.classification.image_features import ImageFeature
from spp_detect.cli import transferring
from spp_detect.config import ConfigError
from spp_detect.pyramid import SpatialPyramidPool

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)


def plain_map(backbone, photo):
    mean, std = (torch.tensor(v)[:, None, None] for v in ([123.675, 116.28, 103.53],
                                                          [58.395, 57.12, 57.375]))  # fmt: skip
    pixels = (torch.from_numpy(photo).permute(2, 0, 1).float() - mean) / std
    with torch.no_grad():
        return backbone.layers(pixels[None])


def test_a_full_photograph_is_pooled_as_plain_torch_does(photo):
    torch.manual_seed(0)
    backbone = build_backbone("small5")
    feature = ImageFeature(backbone, "spp", "full", 96, CPU)(photo)
    whole = plain_map(backbone, cv2.resize(photo, (128, 96), interpolation=cv2.INTER_LINEAR))
    assert whole.shape[2:] == (6, 8)
    pooled = [functional.adaptive_max_pool2d(whole, n).flatten() for n in (6, 3, 2, 1)]
    expected = functional.normalize(torch.cat(pooled), dim=0)
    assert feature.shape == (128 * 50,)
    np.testing.assert_allclose(feature, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["conv4", "conv5", "pool5", "spp"])
def test_features_have_length_one(name, photo):
    feature = ImageFeature(build_backbone("small5"), name, "warp", 96, CPU)(photo)
    assert feature.dtype == np.float32 and feature.ndim == 1
    assert np.linalg.norm(feature) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("trunk", "layer"), [("zf5", "relu4"), ("alexnet", "features.9"), ("resnet18", "layer2")]
)
def test_conv4_ends_before_the_last_convolution(trunk, layer):
    assert ImageFeature(build_backbone(trunk), "conv4", "crop", 224, CPU).layer == layer


def test_conv4_is_the_map_that_the_last_layer_takes(photo):
    torch.manual_seed(0)
    backbone = build_backbone("small5")
    feature = ImageFeature(backbone, "conv4", "warp", 96, CPU)(photo)
    mapped: list[torch.Tensor] = []
    backbone.layers.conv5.register_forward_pre_hook(lambda layer, given: mapped.append(given[0]))
    plain_map(backbone, cv2.resize(photo, (96, 96), interpolation=cv2.INTER_LINEAR))
    expected = functional.normalize(mapped[0].flatten(), dim=0)
    np.testing.assert_allclose(feature, expected.numpy(), atol=1e-6)


def test_six_bins_of_a_map_of_thirteen_cells_are_pool5_of_a_network_without_pyramid():
    maps = torch.rand(1, 7, 13, 13)
    expected = functional.max_pool2d(maps, 3, stride=2).flatten(1)
    assert torch.equal(SpatialPyramidPool((6,))(maps), expected)


def test_fc_layers_are_told_as_functions_of_the_map(photo):
    torch.manual_seed(0)
    backbone = build_backbone("small5")
    fc6 = torch.nn.Sequential(SpatialPyramidPool((2,)), torch.nn.Linear(512, 9), torch.nn.ReLU())
    feature = ImageFeature(backbone, "fc6", "full", 96, CPU, {"fc6": fc6})(photo)
    whole = plain_map(backbone, cv2.resize(photo, (128, 96), interpolation=cv2.INTER_LINEAR))
    expected = functional.normalize(fc6(whole)[0].detach(), dim=0)
    np.testing.assert_allclose(feature, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "view", "told"),
    [
        ("fc7", "full", "small5 is a trunk without fc layers; expected conv4, conv5, pool5, spp"),
        ("conv5", "full", "maps of full photographs have many sizes"),
        ("conv9", "crop", "small5 is a trunk; expected conv4"),
        ("spp", "half", "view 'half'"),
    ],
)
def test_refusals(name, view, told):
    with pytest.raises(ConfigError, match=told):
        ImageFeature(build_backbone("small5"), name, view, 96, CPU)


def test_the_command_line_knows_all():
    assert transferring.OF_TRUNKS == image_features.FEATURES
