"""Frozen networks against their sources, layer by layer as they were."""

import copy

import pytest
import torch
from torch import nn

from spp_detect.backbones import BACKBONES, build_backbone
from spp_detect.fc import FcLayers
from spp_detect.features import Trunk
from spp_detect.inference_copy import InferenceCopy, freeze


def make_trunk(name):
    """A trunk whose batch norms do something."""
    torch.manual_seed(0)
    trunk = build_backbone(name).eval()
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.2, 0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -0.2, 0.2)
    return trunk


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_trunk_computes_the_same_without_its_batch_norms(name):
    trunk = make_trunk(name)
    pixels = torch.randn(1, 3, 96, 112)
    with torch.inference_mode():
        wanted = trunk(pixels)
    frozen = freeze(trunk, "float32")
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in frozen.modules())
    with torch.inference_mode():
        found = frozen(pixels)
    scale = wanted.abs().max().item()
    assert scale > 0
    torch.testing.assert_close(found, wanted, atol=1e-5 * scale, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "small5"])
def test_bfloat16_is_near(name):
    trunk = make_trunk(name)
    pixels = torch.randn(1, 3, 96, 112)
    with torch.inference_mode():
        wanted = trunk(pixels)
    found = InferenceCopy(trunk, "bfloat16")(pixels)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().mean() < 0.02 * wanted.abs().mean()
    assert not torch.equal(found.float(), wanted)


def learn(network, values):
    """One large step of gradient descent."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(values).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_follows_a_source_that_learns_once_it_is_refreshed(precision):
    trunk = make_trunk("small5")
    pixels = torch.randn(1, 3, 64, 64)
    inference = InferenceCopy(trunk, precision)
    before = inference(pixels).clone()
    learn(trunk, pixels)
    torch.testing.assert_close(inference(pixels), before, atol=0, rtol=0)
    inference.refresh()
    after = inference(pixels)
    assert not torch.allclose(after, before, rtol=0.05)
    with torch.inference_mode():
        wanted = trunk(pixels)
    scale = wanted.abs().max().item()
    tolerance = 1e-5 if precision == "float32" else 0.05
    torch.testing.assert_close(after.float(), wanted, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", ["a step", "loaded"])
def test_fc_layers_describe_as_they_are_after_a_refresh(precision, how):
    torch.manual_seed(0)
    layers = FcLayers(20, 16, 2).eval()
    values = torch.randn(5, 20)
    before = layers.infer(values, precision).clone()
    if how == "a step":
        learn(layers, values)
    else:
        layers.load_state_dict({name: 2 * value for name, value in layers.state_dict().items()})
    layers.refresh()
    after, wanted = layers.infer(values, precision), layers(values).detach()
    tolerance = 1e-6 if precision == "float32" else 0.02
    torch.testing.assert_close(after, wanted, atol=tolerance * wanted.max().item(), rtol=1e-5)
    assert not torch.allclose(before, wanted, rtol=0.02)


def test_each_layers_maps_follow_after_a_refresh_of_the_trunk():
    backbone = make_trunk("small5")
    trunk = Trunk(backbone, ("conv3", ""), "float32")
    pixels = torch.randn(1, 3, 64, 64)
    before = trunk(pixels)
    learn(backbone, pixels)
    for name, one_map in trunk(pixels).items():
        assert torch.equal(one_map, before[name])
    trunk.refresh()
    after = trunk(pixels)
    with torch.inference_mode():
        wanted = {
            "conv3": backbone.layers.conv3(backbone.layers.conv2(backbone.layers.conv1(pixels)))
        }
        wanted[""] = backbone(pixels)
    for name, one_map in after.items():
        torch.testing.assert_close(one_map, wanted[name], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(one_map, before[name], rtol=0.05)


def test_in_float32_without_batch_norms_nothing_is_copied():
    layers = FcLayers(20, 16, 2).eval()
    assert freeze(layers, "float32") is layers


def test_the_source_stays_as_it_was():
    """What is saved and learns on: float32, with its batch norms, and no copy among its layers."""
    trunk, layers = make_trunk("small5"), FcLayers(20, 16, 2).eval()
    before = {**copy.deepcopy(trunk.state_dict()), **copy.deepcopy(layers.state_dict())}
    InferenceCopy(trunk, "bfloat16")(torch.randn(1, 3, 64, 64))
    layers.infer(torch.randn(5, 20), "bfloat16")
    after = {**trunk.state_dict(), **layers.state_dict()}
    assert list(after) == list(before)
    for name, value in after.items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in trunk.modules()) == 5


def test_half_precision_goes_in_where_floats_are_computed():
    torch.manual_seed(0)
    layers = FcLayers(20, 16, 2).eval()
    values = torch.randn(5, 20).half()
    found = layers.infer(values, "float32")
    torch.testing.assert_close(found, layers(values.float()).detach())
