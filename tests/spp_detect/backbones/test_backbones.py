"""Every trunk: stride, centre, channels, layers, input and weights."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from spp_detect.backbones import (
    BACKBONES,
    InputFormat,
    WeightsError,
    build_backbone,
    cut_backbone,
    load_weights,
)
from spp_detect.backbones.base import Backbone, measure_grid
from spp_detect.backbones.zf5 import WithinChannelNorm
from spp_detect.config import ConfigError
from spp_detect.features import Trunk
from spp_detect.kernels.norm import normalise_with_torch

# Centre of cell 0 and channels. Worked by hand: each layer adds ((k − 1)/2 − p) · stride so far.
# zf5: (3-1)·1 + 1·2 + 2·4 + 1·8 + 0 = 20. alexnet: (5-2)·1 + 1·4 + 0·8 + 1·8 + 0 = 15.
# convnet5: (5-2)·1 + 1·4 + 1·8 = 15. overfeat: 3·1 + 1·2 + ½·6 = 8, at stride 12.
# vgg16: four poolings of 2: .5 + 1 + 2 + 4. squeezenet1_1: 1 + 2 + 4 + 8. The rest pad (k-1)/2.
GEOMETRY = {
    "zf5": (20.0, 256),
    "zf5_paper": (0.0, 256),
    "convnet5": (15.0, 256),
    "overfeat5": (8.0, 512),
    "overfeat7": (8.0, 512),
    "alexnet": (15.0, 256),
    "vgg16": (7.5, 512),
    "resnet18": (0.0, 256),
    "resnet34": (0.0, 256),
    "resnet50": (0.0, 1024),
    "squeezenet1_1": (15.0, 512),
    "mobilenet_v2": (0.0, 576),
    "mobilenet_v3_large": (0.0, 672),
    "small5": (0.0, 128),
}


@functools.cache
def trunk(name: str) -> Backbone:
    """One build of each trunk for all tests that leave its weights alone."""
    return build_backbone(name)


def test_geometry_covers_every_backbone():
    assert set(GEOMETRY) == set(BACKBONES)


@pytest.mark.parametrize("name", GEOMETRY)
def test_stride_centre_and_channels(name):
    backbone = trunk(name)
    centre, channels = GEOMETRY[name]
    assert backbone.name == name
    stride = 12 if name.startswith("overfeat") else 16
    assert (backbone.grid.stride, backbone.grid.centre) == (stride, centre)
    assert backbone.channels == channels
    assert not backbone.training
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, 64, 100))
    assert maps.shape[:2] == (1, channels)
    assert abs(maps.shape[2] - 4) <= 2
    assert abs(maps.shape[3] - 6) <= 2


@pytest.mark.parametrize(("name", "offset0"), [("zf5", 21), ("vgg16", 8.5), ("alexnet", 16)])
def test_offset0_of_the_release(name, offset0):
    assert 1 + trunk(name).grid.centre == offset0


def make_positive(layers: nn.Module) -> nn.Module:
    """Constant positive weights, no biases, neutral norms: an impulse lights all it reaches."""
    with torch.no_grad():
        for layer in layers.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.fill_(1 / layer.weight[0].numel())
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm2d):
                layer.reset_parameters()
                layer.reset_running_stats()
    return layers


def check_impulse(layers, grid, axis):
    """An impulse on a cell's centre lights cells symmetrically around that cell."""
    layers = make_positive(copy.deepcopy(layers))
    cell, centre = 384 // grid.stride, grid.centre
    # Between two pixels where the centre is (vgg16).
    position = [int(np.floor(centre)) + 384, int(np.ceil(centre)) + 384]
    pixels = torch.zeros((1, 3, 784, 32) if axis == 0 else (1, 3, 32, 784))
    pixels.select(2 + axis, position[0])[...] = 1.0
    pixels.select(2 + axis, position[1])[...] = 1.0
    with torch.inference_mode():
        response = layers(pixels)[0, 0].amax(1 - axis).double().numpy()
    lit = np.flatnonzero(response > 0)
    assert 0 < lit[0] < lit[-1] < len(response) - 1  # far from the border
    assert lit[0] + lit[-1] == 2 * cell
    np.testing.assert_allclose(response[lit], response[lit][::-1], rtol=1e-4)
    middle = (response * np.arange(len(response))).sum() / response.sum()
    assert middle == pytest.approx(cell, abs=1e-3)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", GEOMETRY)
def test_an_impulse_lights_cells_around_the_one_that_the_formula_names(name, axis):
    check_impulse(trunk(name).layers, trunk(name).grid, axis)


def test_measure_grid_hand_worked():
    layers = nn.Sequential(
        nn.Conv2d(3, 4, 11, stride=4, padding=0),  # centre 5, stride 4
        nn.MaxPool2d(3, 2),  # 5 + 1·4 = 9, stride 8
        nn.Conv2d(4, 4, 5, padding=2),
        nn.MaxPool2d(3, 2),  # 9 + 8 = 17: CaffeNet's offset0 is 18
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    )
    grid = measure_grid(layers)
    assert (grid.stride, grid.centre) == (16, 17.0)


@pytest.mark.parametrize(
    ("side", "release", "paper"),
    [
        (180, 10, 12),
        (224, 13, 15),
        (480, 29, 31),
        (576, 35, 37),
        (688, 42, 44),
        (864, 53, 55),
        (1200, 74, 76),
    ],
)
def test_map_sides_of_zf5(side, release, paper):
    with torch.inference_mode():
        for name, cells in (("zf5", release), ("zf5_paper", paper)):
            assert trunk(name)(torch.zeros(1, 3, side, 40)).shape[2] == cells
            assert trunk(name)(torch.zeros(1, 3, 40, side)).shape[3] == cells


@pytest.mark.parametrize(
    ("name", "side", "cells"),
    [
        ("convnet5", 224, {"conv1": 55, "pool2": 27, "pool3": 13, "relu5": 13}),
        ("convnet5", 180, {"relu5": 10}),
        ("overfeat5", 224, {"pool1": 36, "pool2": 18, "relu5": 18}),
        ("overfeat7", 224, {"pool1": 36, "pool2": 18, "relu7": 18}),
        ("overfeat7", 180, {"relu7": 14}),
    ],
)
def test_map_sides_of_the_papers_other_networks(name, side, cells):
    """Table 1 of the paper, at 224 pixels; the last layer is the table's, too."""
    maps = torch.zeros(1, 3, side, side)
    found = {}
    with torch.inference_mode():
        for layer, module in trunk(name).layers.named_children():
            maps = module(maps)
            found[layer] = maps.shape[2]
    assert cells.items() <= found.items()
    assert layer == [*cells][-1]


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("convnet5", (96, 256, 384, 384, 256)),
        ("overfeat5", (96, 256, 512, 512, 512)),
        ("overfeat7", (96, 256, 512, 512, 512, 512, 512)),
    ],
)
def test_filters_of_the_papers_other_networks(name, widths):
    layers = [layer for layer in trunk(name).modules() if isinstance(layer, nn.Conv2d)]
    assert tuple(layer.out_channels for layer in layers) == widths
    biases = [float(layer.bias[0].detach()) for layer in layers]
    assert biases == [0, 1, 0, 1, 1, 1, 1][: len(widths)]
    assert all(abs(float(layer.weight.std()) - 0.01) < 5e-4 for layer in layers)


def normalise_slowly(plane, size, alpha, beta):
    """x · (1 + α/size² · Σ x²)^−β over the neighbours that there are."""
    reach = size // 2
    result = np.empty_like(plane)
    for y in range(plane.shape[0]):
        for x in range(plane.shape[1]):
            near = plane[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            result[y, x] = plane[y, x] / (1 + alpha / size**2 * (near**2).sum()) ** beta
    return result


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.01)],
)
@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (1, 5, 1, 1), (1, 2, 1, 9), (1, 2, 8, 1)])
def test_within_channel_norm_against_loops(shape, kind, tolerance):
    maps = torch.from_numpy(np.random.default_rng(0).normal(0, 300, shape)).to(kind)
    normed = WithinChannelNorm()(maps)
    assert normed.dtype == kind
    planes = maps.double().numpy()
    wanted = [[normalise_slowly(plane, 3, 5e-5, 0.75) for plane in one] for one in planes]
    np.testing.assert_allclose(normed.double().numpy(), wanted, rtol=tolerance)


def test_within_channel_norm_has_a_gradient():
    maps = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(WithinChannelNorm(), 100 * maps)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.02)])
@pytest.mark.parametrize("shape", [(2, 3, 6, 7), (1, 5, 1, 1), (1, 2, 1, 9), (1, 2, 8, 1)])
def test_the_kernels_gradient_is_that_of_torch(shape, kind, tolerance):
    random = np.random.default_rng(0)
    maps = torch.from_numpy(random.normal(0, 300, shape)).to(kind)
    given = torch.from_numpy(random.normal(0, 1, shape)).to(kind)
    found, expected = (maps.clone().to(one).requires_grad_() for one in (kind, torch.float64))
    WithinChannelNorm()(found).backward(given)
    normalise_with_torch(expected).backward(given.double())
    assert found.grad.dtype == kind
    difference = (found.grad.double() - expected.grad).abs().max()
    assert float(difference) <= tolerance * float(expected.grad.abs().max())


def test_within_channel_norm_hand_worked():
    norm = WithinChannelNorm()
    # A single cell of 300: 1 + 5e-5/9 · 90000 = 1.5, whatever the missing neighbours.
    one = norm(torch.full((1, 1, 1, 1), 300.0, dtype=torch.float64))
    assert one.item() == pytest.approx(300 / 1.5**0.75)
    # 3 × 3 cells of 300: the middle sees nine, 1 + 9 · 0.5; a corner four, 1 + 4 · 0.5.
    nine = norm(torch.full((1, 1, 3, 3), 300.0, dtype=torch.float64))[0, 0]
    assert nine[1, 1].item() == pytest.approx(300 / 5.5**0.75)
    assert nine[0, 0].item() == pytest.approx(300 / 3**0.75)
    assert nine[0, 1].item() == pytest.approx(300 / 4**0.75)


def run_zf5_by_the_table(state, x, pads):
    """Layer by layer as the release has it."""

    def convolve(x, i, stride, pad):
        weight, bias = state[f"conv{i}.weight"], state[f"conv{i}.bias"]
        return functional.conv2d(x, weight, bias, stride, pad).relu()

    def norm_and_pool(x, pad):
        normed = np.stack([normalise_slowly(p, 3, 5e-5, 0.75) for p in x[0].numpy()])
        return functional.max_pool2d(torch.from_numpy(normed)[None], 3, 2, pad, ceil_mode=True)

    x = norm_and_pool(convolve(x, 1, 2, pads[0]), pads[1])
    x = norm_and_pool(convolve(x, 2, 2, pads[2]), pads[3])
    for i in (3, 4, 5):
        x = convolve(x, i, 1, 1)
    return x


@pytest.mark.parametrize(("name", "pads"), [("zf5", (1, 0, 0, 0)), ("zf5_paper", (3, 1, 2, 1))])
def test_zf5_layers(name, pads):
    layers = build_backbone(name).layers.double()
    state = layers.state_dict()
    shapes = [(96, 3, 7, 7), (256, 96, 5, 5), (384, 256, 3, 3), (384, 384, 3, 3), (256, 384, 3, 3)]
    for i, (shape, bias) in enumerate(zip(shapes, (0, 1, 0, 1, 1), strict=True), 1):
        weight = state[f"conv{i}.weight"]
        assert tuple(weight.shape) == shape
        assert weight.std().item() == pytest.approx(0.01, rel=0.03)
        assert weight.mean().item() == pytest.approx(0, abs=4e-4)
        assert (state[f"conv{i}.bias"] == bias).all()
    pixels = torch.randn(1, 3, 45, 52, dtype=torch.float64) * 60
    with torch.inference_mode():
        torch.testing.assert_close(layers(pixels), run_zf5_by_the_table(state, pixels, pads))


def with_format(order, mean, std):
    return Backbone("one", nn.Sequential(nn.Conv2d(3, 1, 1)), 1, InputFormat(order, mean, std))


PHOTO = np.array([[[255, 128, 0], [10, 20, 30]]], np.uint8)  # one row, two pixels, RGB


def test_normalise_rgb_hand_worked():
    pixels = with_format("rgb", (100.0, 50.0, 10.0), (2.0, 4.0, 5.0)).normalise(PHOTO)
    assert pixels.shape == (1, 3, 1, 2)
    assert pixels.dtype == torch.float32
    # (255-100)/2, (10-100)/2; (128-50)/4, (20-50)/4; (0-10)/5, (30-10)/5
    assert pixels[0, :, 0].tolist() == [[77.5, -45.0], [19.5, -7.5], [-2.0, 4.0]]


def test_normalise_bgr_hand_worked():
    pixels = with_format("bgr", (100.0, 50.0, 10.0), (2.0, 4.0, 5.0)).normalise(PHOTO)
    assert pixels.shape == (1, 3, 1, 2)
    # Blue first: (0-100)/2, (30-100)/2; green; red (255-10)/5, (10-10)/5
    assert pixels[0, :, 0].tolist() == [[-50.0, -35.0], [19.5, -7.5], [49.0, 0.0]]


@pytest.mark.parametrize("name", ["resnet18", "zf5"])
def test_normalise_equals_float_arithmetic_to_the_bit(name):
    """Every value of every channel, in a view as well."""
    backbone = trunk(name)
    values = np.tile(np.arange(256, dtype=np.uint8), (3, 1))
    photo = np.random.default_rng(0).permuted(values, axis=1).T.reshape(16, 16, 3)
    for one in (photo, photo[:, ::-1], photo[3:9, ::2]):
        ordered = one[..., ::-1] if name == "zf5" else one
        mean, std = (torch.tensor(getattr(backbone.input_format, k)) for k in ("mean", "std"))
        wanted = (torch.from_numpy(ordered.copy()).float() - mean) / std
        found = backbone.normalise(one)
        assert torch.equal(found, wanted.permute(2, 0, 1)[None])
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_inputs_of_the_trunks():
    papers = {"zf5", "zf5_paper", "convnet5", "overfeat5", "overfeat7"}
    for name in papers:
        assert trunk(name).normalise(PHOTO)[0, :, 0].tolist() == [
            [-128, -98],
            [0, -108],
            [127, -118],
        ]
    transform = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    wanted = transform(torch.from_numpy(PHOTO).permute(2, 0, 1)[None] / 255)
    for name in set(GEOMETRY) - papers:
        torch.testing.assert_close(trunk(name).normalise(PHOTO), wanted)


# Where torchvision's own net has what the trunk gives.
CUTS = {
    "alexnet": "features.11",
    "vgg16": "features.29",
    "resnet18": "layer3",
    "resnet34": "layer3",
    "resnet50": "layer3",
    "squeezenet1_1": "features.12",
    "mobilenet_v2": "features.14.conv.0",
    "mobilenet_v3_large": "features.13.block.0",
}


@functools.cache
def full_net(name: str) -> nn.Module:
    """torchvision's net with arbitrary norms; unused classifiers are never given memory."""
    torch.manual_seed(0)
    if name in ("alexnet", "vgg16"):
        with torch.device("meta"):
            net = torchvision.models.get_model(name, weights=None)
        net.features.to_empty(device="cpu")
        net.avgpool = net.classifier = nn.Identity()
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.03)
    else:
        net = torchvision.models.get_model(name, weights=None)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return net.eval()


def give_weights(backbone: Backbone, net: nn.Module) -> None:
    state = net.state_dict()
    backbone.layers.load_state_dict({k: state[k] for k in backbone.layers.state_dict()})


@pytest.mark.parametrize("name", CUTS)
def test_equals_torchvisions_net_at_the_cut(name):
    net, backbone = full_net(name), copy.deepcopy(trunk(name))
    give_weights(backbone, net)
    seen = []
    hook = net.get_submodule(CUTS[name]).register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.clone())
    )
    pixels = torch.randn(2, 3, 96, 80)
    with torch.inference_mode():
        net(pixels)
        maps = backbone(pixels)
    hook.remove()
    assert maps.std() > 0
    assert torch.equal(maps, seen[0])


# Cut after layers.

PIXELS = torch.randn(2, 3, 96, 80, generator=torch.Generator().manual_seed(0))


def list_names(backbone: Backbone) -> list[str]:
    """Names of a trunk's layers, as torchvision has them."""
    tops = [name for name, _ in backbone.layers.named_children()]
    if tops == ["features"]:
        return [f"features.{i}" for i in range(len(backbone.layers.features))]
    return tops


@functools.cache
def make_pair(name: str) -> tuple[Backbone, nn.Module]:
    """A trunk, and what torch runs: torchvision's whole net where it has one."""
    backbone = copy.deepcopy(trunk(name))
    if name not in CUTS:
        return backbone, backbone.layers
    give_weights(backbone, full_net(name))
    return backbone, full_net(name)


@functools.cache
def run_torch(name: str) -> dict[str, torch.Tensor]:
    """The map after each layer but the last, by torch's own forward pass."""
    backbone, net = make_pair(name)
    seen = {}

    def watch(layer):
        return net.get_submodule(layer).register_forward_hook(
            # A copy: the next layer may work in place.
            lambda _module, _inputs, output: seen.__setitem__(layer, output.clone())
        )

    hooks = [watch(layer) for layer in list_names(backbone)[:-1]]
    with torch.inference_mode():
        net(PIXELS)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("name", GEOMETRY)
def test_a_trunk_cut_everywhere_gives_torchs_own_maps(name):
    backbone, _ = make_pair(name)
    wanted, names = run_torch(name), list_names(backbone)
    segments = cut_backbone(backbone, [*names[:-1], ""])
    assert [segment.name for segment in segments] == [*names[:-1], ""]
    layers = [backbone.layers.get_submodule(one) for one in names]
    maps = PIXELS
    for i, segment in enumerate(segments):
        with torch.inference_mode():
            maps = segment.layers(maps.clone())
            if segment.name:
                assert torch.equal(maps, wanted[segment.name])
        assert segment.channels == maps.shape[1]
        assert segment.grid == measure_grid(nn.Sequential(*layers[: i + 1]))
    with torch.inference_mode():
        assert torch.equal(maps, backbone(PIXELS))
    assert (segments[-1].grid, segments[-1].channels) == (backbone.grid, backbone.channels)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("zf5", ["conv1", "pool1"]),
        ("zf5", ["conv5"]),  # nothing but a ReLU after it
        ("alexnet", ["features.0", "features.5"]),
        ("vgg16", ["features.9", "features.14", "features.15"]),
        ("resnet18", ["conv1", "bn1"]),
        ("resnet18", ["layer1"]),
        ("resnet50", ["layer2"]),
        ("squeezenet1_1", ["features.3", "features.4"]),
        ("mobilenet_v2", ["features.6"]),
        ("mobilenet_v3_large", ["features.2"]),
        ("small5", ["conv2", "conv4"]),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_trunk_for_inference_gives_torchs_own_maps(name, layers, last):
    """Though its batch norms are folded, and though layers after a cut work in place."""
    backbone, _ = make_pair(name)
    wanted = {layer: run_torch(name)[layer] for layer in layers}
    if last:
        with torch.inference_mode():
            wanted[""] = backbone(PIXELS)
    pixels = PIXELS.clone()
    maps = Trunk(backbone, tuple(wanted), "float32")(pixels)
    assert list(maps) == list(wanted)
    for layer, one_map in maps.items():
        scale = wanted[layer].abs().max().item()
        torch.testing.assert_close(one_map, wanted[layer], atol=1e-5 * scale, rtol=1e-4)
    assert torch.equal(pixels, PIXELS)


@pytest.mark.parametrize(
    ("name", "layer", "stride", "centre", "channels"),
    [
        # ((k - 1)/2 - p) · stride so far: conv1 3 - 1; pool1 1 · 2; conv2 2 · 4; pool2 1 · 8.
        ("zf5", "conv1", 2, 2.0, 96),
        ("zf5", "pool1", 4, 4.0, 96),
        ("zf5", "conv2", 8, 12.0, 256),
        ("zf5", "pool2", 16, 20.0, 256),
        # 5 - 2; 3 + 1 · 4; 7 + 1 · 8.
        ("alexnet", "features.0", 4, 3.0, 64),
        ("alexnet", "features.2", 8, 7.0, 64),
        ("alexnet", "features.5", 16, 15.0, 192),
        ("vgg16", "features.9", 4, 1.5, 128),  # two poolings of 2: .5 + 1
        ("resnet18", "conv1", 2, 0.0, 64),
        ("resnet18", "layer1", 4, 0.0, 64),
        ("resnet18", "layer2", 8, 0.0, 128),
        ("resnet50", "layer2", 8, 0.0, 512),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_grids_of_earlier_layers(name, layer, stride, centre, channels, axis):
    (segment,) = cut_backbone(trunk(name), [layer])
    assert (segment.grid.stride, segment.grid.centre) == (stride, centre)
    assert segment.channels == channels
    check_impulse(segment.layers, segment.grid, axis)


def test_segments_share_the_trunks_weights():
    backbone = fresh("small5")
    segments = cut_backbone(backbone, ["conv2", ""])
    ours = [parameter for segment in segments for parameter in segment.layers.parameters()]
    theirs = list(backbone.parameters())
    assert len(ours) == len(theirs)
    assert all(one is other for one, other in zip(ours, theirs, strict=True))


def test_a_trunk_that_is_not_cut_is_one_segment():
    (segment,) = cut_backbone(trunk("resnet18"), [""])
    assert segment.layers is trunk("resnet18").layers
    assert (segment.name, segment.channels) == ("", 256)
    assert segment.grid == trunk("resnet18").grid


def test_the_order_of_the_names_does_not_matter():
    for names in (["layer1", "layer2", ""], ["", "layer2", "layer1"], ["layer2", "", "layer1"] * 2):
        segments = cut_backbone(trunk("resnet18"), names)
        assert [segment.name for segment in segments] == ["layer1", "layer2", ""]


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer9"),
        ("resnet18", "layer3"),  # the last is named ""
        ("resnet18", "layer2.0"),
        ("alexnet", "features"),
        ("alexnet", "features.11"),
        ("zf5", "Conv1"),
    ],
)
def test_names_of_no_layer_before_the_last(name, layer):
    first = list_names(trunk(name))[0]
    with pytest.raises(
        ConfigError, match=f"layer '{layer}': expected a .* {name} .*{first}, "
    ) as e:
        cut_backbone(trunk(name), ["", layer])
    assert "\n" not in str(e.value)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"backbone 'resnet19': expected one of zf5, .*small5"):
        build_backbone("resnet19")


# Weights.


def fresh(name="small5", seed=0):
    torch.manual_seed(seed)
    return build_backbone(name)


def copy_of(state):
    return {k: v.clone() for k, v in state.items()}


def write(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def assert_same_weights(one, other):
    one, other = one.layers.state_dict(), other.layers.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one if not k.endswith("tracked"))


def assert_refused(source, match, backbone=None):
    backbone = backbone or fresh()
    before = copy_of(backbone.layers.state_dict())
    with pytest.raises(WeightsError, match=match) as caught:
        load_weights(backbone, source)
    message = str(caught.value)
    assert "\n" not in message
    assert source in message
    after = backbone.layers.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)  # nothing half loaded


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_come_back_from_a_file(tmp_path, suffix):
    given, taken = fresh(seed=1), fresh(seed=2)
    source = write(tmp_path / f"some{suffix}", given.layers.state_dict())
    assert load_weights(taken, source) == f"some{suffix}"
    assert_same_weights(given, taken)
    pixels = torch.randn(1, 3, 40, 40)
    assert torch.equal(given(pixels), taken(pixels))


def test_weights_under_state_dict(tmp_path):
    given, taken = fresh(seed=1), fresh(seed=2)
    source = write(tmp_path / "a.pth", {"state_dict": given.layers.state_dict(), "epoch": 3})
    load_weights(taken, source)
    assert_same_weights(given, taken)


def test_a_whole_nets_weights_fit_its_trunk(tmp_path):
    """Later layers may be there, and running counts may be missing."""
    net, taken = full_net("resnet18"), fresh("resnet18")
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    assert "fc.weight" in state
    load_weights(taken, write(tmp_path / "resnet18.safetensors", state))
    assert torch.equal(
        taken.layers.state_dict()["layer3.1.conv2.weight"], state["layer3.1.conv2.weight"]
    )


def test_none_keeps_the_fresh_weights():
    backbone = fresh(seed=3)
    assert load_weights(backbone, "none") == "none"
    assert_same_weights(backbone, fresh(seed=3))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_missing_tensors(tmp_path, suffix):
    state = copy_of(fresh().layers.state_dict())
    del state["conv5.0.weight"]
    source = write(tmp_path / f"a{suffix}", state)
    assert_refused(
        source, r"not the weights of small5: 1 of 25 tensors are missing.*conv5\.0\.weight"
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_other_shapes(tmp_path, suffix):
    state = copy_of(fresh().layers.state_dict())
    state["conv2.0.weight"] = torch.zeros(48, 24, 5, 5)
    match = r"conv2\.0\.weight has shape \(48, 24, 5, 5\), expected \(48, 24, 3, 3\)"
    assert_refused(write(tmp_path / f"a{suffix}", state), match)


def test_another_trunks_file(tmp_path):
    state = copy_of(full_net("resnet18").state_dict())
    assert_refused(write(tmp_path / "a.pth", state), "not the weights of small5")
    # Same names, other shapes.
    state = copy_of(full_net("resnet50").state_dict())
    assert_refused(
        write(tmp_path / "b.pth", state), "not the weights of resnet18", fresh("resnet18")
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.999])
def test_cut_off_file(tmp_path, suffix, kept):
    path = tmp_path / f"a{suffix}"
    write(path, copy_of(fresh().layers.state_dict()))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert_refused(str(path), "not a whole state dict")


TEXTS = {
    "json": json.dumps({"conv1.0.weight": [1, 2]}).encode(),
    "list": b"[]",
    "text": b"hello world\n",
    "page": b"<!DOCTYPE html>\n<html>404 not found</html>\n",
    "zip": b"PK\x03\x04",
    "bytes": bytes(range(256)),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", TEXTS)
def test_files_that_are_no_weights(tmp_path, suffix, content):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(TEXTS[content])
    assert_refused(str(path), "not a whole state dict")


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_bytes(tmp_path, legacy):
    """Whatever torch.load stumbles over, the answer is one line."""
    path = tmp_path / "a.pth"
    state = copy_of(fresh().layers.state_dict())
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(whole)
        for place in rng.integers(0, 1500, 10):
            content[place] = rng.integers(0, 256)
        path.write_bytes(content)
        try:
            load_weights(fresh(), str(path))
        except WeightsError as error:
            assert "\n" not in str(error)
            assert str(path) in str(error)


class Payload:
    """What a hostile pickle would run."""

    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_pickled_objects_are_refused_unrun(tmp_path):
    plain = tmp_path / "plain.pth"
    plain.write_bytes(pickle.dumps({"conv1.0.weight": Payload()}))
    assert_refused(str(plain), "not a whole state dict")
    assert_refused(
        write(tmp_path / "a.pth", {"conv1.0.weight": Payload()}), "not a whole state dict"
    )
    assert_refused(write(tmp_path / "b.pth", fresh().layers), "not a whole state dict")


@pytest.mark.parametrize("values", [[1, 2], {"a": 1}, {"state_dict": {"a": 1}}, 5], ids=repr)
def test_no_state_dict(tmp_path, values):
    assert_refused(write(tmp_path / "a.pth", values), "expected a state dict")


def test_missing_file_and_folder(tmp_path):
    assert_refused(str(tmp_path / "none.pth"), "no such file")
    assert_refused(str(tmp_path), "no such file")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """A torch.hub folder with nothing in it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "error",
    [urllib.error.URLError("no route"), ConnectionResetError("reset"), TimeoutError("slow")],
)
def test_imagenet_without_network(monkeypatch, empty_cache, error):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[1]
    assert_refused("imagenet", rf"cannot download {url} .*--weights {name}", fresh("resnet18"))


def test_imagenet_download_cut_short(monkeypatch, empty_cache):
    """torch.hub answers a wrong hash with a RuntimeError."""

    def fail(*_args, **_kwargs):
        raise RuntimeError('invalid hash value (expected "f37072fd", got "0123")')

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    assert_refused("imagenet", r"resnet18-f37072fd\.pth", fresh("resnet18"))


def test_imagenet_file_in_the_cache_is_damaged(monkeypatch, empty_cache):
    (empty_cache / "checkpoints").mkdir(parents=True)
    (empty_cache / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"PK\x03\x04 cut")
    assert_refused("imagenet", r"resnet18-f37072fd\.pth", fresh("resnet18"))


def test_imagenet_takes_torchvisions_file(empty_cache):
    (empty_cache / "checkpoints").mkdir(parents=True)
    net = full_net("resnet18")
    torch.save(net.state_dict(), empty_cache / "checkpoints" / "resnet18-f37072fd.pth")
    backbone = fresh("resnet18")
    assert load_weights(backbone, "imagenet") == "imagenet"
    assert torch.equal(
        backbone.layers.state_dict()["conv1.weight"], net.state_dict()["conv1.weight"]
    )


@pytest.mark.parametrize("name", ["zf5", "zf5_paper", "small5"])
def test_imagenet_where_torchvision_has_none(name):
    assert_refused("imagenet", f"torchvision has none for {name}", fresh(name))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("resnet18", "resnet18_conv1_layer3.safetensors"),
        ("squeezenet1_1", "squeezenet1_1.safetensors"),
    ],
)
def test_shared_weights_load(shared_weights, name, file):
    backbone = fresh(name)
    assert load_weights(backbone, str(shared_weights / file)) == file
    state = load_file(shared_weights / file)
    layers = backbone.layers.state_dict()
    same = [torch.equal(layers[k], state[k]) for k in layers if not k.endswith("tracked")]
    assert all(same)
    assert len(same) > 20
    with torch.inference_mode():
        maps = backbone(backbone.normalise(np.full((64, 64, 3), 90, np.uint8)))
    assert torch.isfinite(maps).all()
    assert maps.max() > 0
