"""Frozen networks against their sources, layer by layer as they were."""

import pytest
import torch
from torch import nn

from spp_detect.backbones import BACKBONES, build_backbone
from spp_detect.fc import FcLayers
from spp_detect.inference_copy import FrozenNetwork, freeze


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
    found = FrozenNetwork(trunk, "bfloat16")(pixels)
    assert found.dtype == torch.bfloat16
    assert (found.float() - wanted).abs().mean() < 0.02 * wanted.abs().mean()
    assert not torch.equal(found.float(), wanted)


def test_it_follows_a_source_that_learns():
    torch.manual_seed(0)
    layers = FcLayers(20, 16, 2).eval()
    values = torch.randn(5, 20)
    before = layers.describe(values, "float32")
    torch.testing.assert_close(before, layers(values).detach())
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    layers(values).square().sum().backward()
    optimizer.step()
    after = layers.describe(values, "float32")
    torch.testing.assert_close(after, layers(values).detach())
    assert not torch.allclose(before, after)
    layers.load_state_dict({name: 2 * value for name, value in layers.state_dict().items()})
    torch.testing.assert_close(layers.describe(values, "float32"), layers(values).detach())


def test_in_float32_without_batch_norms_nothing_is_copied():
    layers = FcLayers(20, 16, 2).eval()
    assert freeze(layers, "float32") is layers


def test_it_holds_none_of_the_sources_weights():
    frozen = FrozenNetwork(make_trunk("small5"), "bfloat16")
    frozen(torch.randn(1, 3, 64, 64))
    assert list(frozen.parameters()) == []
    assert frozen.state_dict() == {}


def test_half_precision_goes_in_where_floats_are_computed():
    torch.manual_seed(0)
    layers = FcLayers(20, 16, 2).eval()
    values = torch.randn(5, 20).half()
    found = layers.describe(values, "float32")
    torch.testing.assert_close(found, layers(values.float()).detach())
