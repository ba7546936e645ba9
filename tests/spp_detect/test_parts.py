"""Features of several parts: each part's region pooled or warped by hand, and whole models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from data import read_photo
from proposals import propose
from spp_detect import Detector, ModelError
from spp_detect.backbones import Backbone, InputFormat
from spp_detect.config import ConfigError, make_config
from spp_detect.parts import PARTS
from spp_detect.rcnn import RcnnExtractor, warp_windows
from spp_detect.spp import SppExtractor

CPU = torch.device("cpu")
SIZE = (90, 70)
LEVELS = (3, 2, 1)
# Stride and centre of cell 0 after the first layer, (7-1)/2 - 1, and the last, 2 + 4·((5-1)/2 - 1).
GRIDS = {"first": (4, 2.0), "": (16, 6.0)}

# The early layer's map has another size, and its part another pyramid.
CHOICES = [
    ("window",),
    ("surroundings",),
    ("window", "surroundings"),
    ("surroundings", "window"),
    ("window", "early"),
    ("early", "surroundings", "window", "window"),
    ("early",),
]


@pytest.fixture(autouse=True)
def one_thread():
    """Many small poolings: where other work is going on, torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def parts(more_parts):
    more_parts("first")


def build_tiny():
    torch.manual_seed(0)
    layers = nn.Sequential()
    layers.add_module("first", nn.Conv2d(3, 5, 7, stride=4, padding=1))
    layers.add_module("tanh", nn.Tanh())
    layers.add_module("last", nn.Conv2d(5, 6, 5, stride=4, padding=1))
    return Backbone("tiny", layers, 6, InputFormat("rgb", (100.0,) * 3, (60.0,) * 3))


def random_photo():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


def random_windows(count):
    rng = np.random.default_rng(1)
    low = np.stack([rng.integers(0, SIZE[0] - 4, count), rng.integers(0, SIZE[1] - 4, count)], 1)
    high = low + rng.integers(3, 70, (count, 2))
    return np.concatenate([low, high.clip(None, SIZE)], axis=1).astype(np.float32)


def place_slowly(part, window):
    x1, y1, x2, y2 = (float(v) for v in window)
    if part != "surroundings":
        return x1, y1, x2, y2
    wider, higher = 1.7 * (x2 - x1), 1.7 * (y2 - y1)
    left, top = (x1 + x2 - wider) / 2, (y1 + y2 - higher) / 2
    right, bottom = (x1 + x2 + wider) / 2, (y1 + y2 + higher) / 2
    region = max(left, 0), max(top, 0), min(right, SIZE[0]), min(bottom, SIZE[1])
    return tuple(float(np.float32(v)) for v in region)


def find_cells(low, high, factor, cells, grid):
    """Cells of one axis by the release's rule, at this grid's stride."""
    stride, centre = grid
    offset = 6.5 / 16 * stride
    first = math.floor((low * factor - centre + offset) / stride + 0.5)
    last = math.ceil(((high - 1) * factor - centre - offset) / stride - 0.5)
    if first > last:
        first = last = (first + last) // 2
    return max(0, min(first, cells - 1)), max(0, min(last, cells - 1))


def pool_slowly(maps, part, window, scale):
    """Pool a part of a window by torch's own pooling on the crop of the map: cells and values."""
    layer, levels = ("first", (2, 1)) if part == "early" else ("", LEVELS)
    one_map = maps.maps[layer][scale]
    factor = (maps.sides[scale] - 1) / (min(SIZE) - 1)
    x1, y1, x2, y2 = place_slowly(part, window)
    left, right = find_cells(x1, x2, factor, one_map.shape[1], GRIDS[layer])
    top, bottom = find_cells(y1, y2, factor, one_map.shape[0], GRIDS[layer])
    crop = one_map[top : bottom + 1, left : right + 1].permute(2, 0, 1).contiguous()
    pooled = [functional.adaptive_max_pool2d(crop, n).flatten() for n in levels]
    return (left, top, right, bottom), torch.cat(pooled)


def choose_slowly(window, sides):
    """The scale of all parts is the window's own."""
    x1, y1, x2, y2 = (float(v) for v in window)
    wanted = math.floor(208 * min(SIZE) / math.sqrt((x2 - x1) * (y2 - y1)) + 0.5)
    far = [abs(side - wanted) for side in sides]
    return far.index(min(far))


def build_extractor(chosen, kind=SppExtractor, **changes):
    config = make_config(parts=chosen, levels=LEVELS, precision="float32", **changes)
    return kind(build_tiny(), config, CPU)


def count_values(part):
    return 5 * 5 if part == "early" else 6 * 14


@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize("scales", [(160,), (96, 300, 700)])
def test_spp_nets_parts_equal_pooling_their_regions_by_hand(chosen, scales):
    extractor = build_extractor(chosen, scales=scales)
    maps = extractor.compute_maps(random_photo())
    windows = random_windows(60)
    pooled = maps.pool(windows)
    wanted, where = [], []
    for window in windows:
        scale = choose_slowly(window, scales)
        cells, values = zip(*(pool_slowly(maps, p, window, scale) for p in chosen), strict=True)
        wanted.append(torch.cat(values))
        where.append((scale, *cells))
    assert torch.equal(pooled.features[torch.from_numpy(pooled.inverse)], torch.stack(wanted))
    # Windows are the same where all of their parts are.
    assert len(pooled.features) == len(set(where))
    assert pooled.first.tolist() == sorted(where.index(one) for one in set(where))
    assert extractor.lengths == tuple(map(count_values, chosen))
    assert extractor.length == pooled.features.shape[1]
    np.testing.assert_array_equal(pooled.windows, windows)
    if len(scales) > 1:
        assert len({one[0] for one in where}) > 1  # the scales are really used


@pytest.mark.parametrize("chosen", CHOICES)
@pytest.mark.parametrize("scale", [0, 1])
@pytest.mark.parametrize("count", [1, 20])  # pooled from the cells under it, and from the whole map
def test_spp_nets_parts_at_one_scale(chosen, scale, count):
    maps = build_extractor(chosen, scales=(96, 160)).compute_maps(random_photo())
    windows = random_windows(count)
    wanted = [
        torch.cat([pool_slowly(maps, part, window, scale)[1] for part in chosen])
        for window in windows
    ]
    assert torch.equal(maps.pool_at(windows, scale), torch.stack(wanted))


def test_maps_are_those_of_the_layers_alone():
    photo = random_photo()
    extractor = build_extractor(("window", "early"), scales=(min(SIZE),))
    maps = extractor.compute_maps(photo).maps
    assert list(maps) == ["first", ""]
    pixels = extractor.backbone.normalise(photo)
    with torch.inference_mode():
        wanted = {"first": extractor.backbone.layers.first(pixels), "": extractor.backbone(pixels)}
    for layer, (one_map,) in maps.items():
        torch.testing.assert_close(one_map, wanted[layer][0].permute(1, 2, 0))
    assert list(build_extractor(("early",)).compute_maps(photo).maps) == ["first"]
    assert list(build_extractor(("window",)).compute_maps(photo).maps) == [""]


@pytest.mark.parametrize("chosen", CHOICES)
def test_rcnns_parts_equal_warping_their_regions(chosen):
    extractor = build_extractor(chosen, RcnnExtractor)
    photo = random_photo()
    source = extractor.compute_maps(photo)
    windows = random_windows(19)  # whole batches and a part of one
    windows[7] = windows[2]
    pooled = source.pool(windows)
    assert len(pooled.features) == 18
    assert extractor.length == pooled.features.shape[1] == sum(map(count_values, chosen))
    pixels = extractor.backbone.normalise(photo)
    for window, row in zip(windows, pooled.inverse, strict=True):
        wanted = []
        for part in chosen:
            region = torch.tensor([place_slowly(part, window)])
            crop = warp_windows(pixels, region)
            layers = extractor.backbone.layers
            with torch.inference_mode():
                maps = layers.first(crop) if part == "early" else layers(crop)
            levels = (2, 1) if part == "early" else LEVELS
            wanted += [functional.adaptive_max_pool2d(maps, n).flatten() for n in levels]
        torch.testing.assert_close(pooled.features[row], torch.cat(wanted), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", [SppExtractor, RcnnExtractor])
def test_no_windows(kind):
    for scales in ((160,), (96, 160)):
        extractor = build_extractor(("window", "early"), kind, scales=scales)
        pooled = extractor.compute_maps(random_photo()).pool(np.zeros((0, 4), np.float32))
        assert pooled.features.shape == (0, extractor.length) == (0, 6 * 14 + 5 * 5)


def test_rows_are_kept_with_all_of_their_parts():
    maps = build_extractor(("window", "early")).compute_maps(random_photo())
    pooled = maps.pool(random_windows(60))
    rows = torch.tensor([0, 3, 4])
    kept = pooled.keep(rows)
    assert torch.equal(kept.features, pooled.features[rows])
    np.testing.assert_array_equal(kept.windows[kept.first], pooled.windows[pooled.first[rows]])
    assert kept.size == SIZE


@pytest.mark.parametrize("kind", [SppExtractor, RcnnExtractor])
def test_a_layer_that_the_trunk_lacks(monkeypatch, kind):
    monkeypatch.setattr(PARTS["early"], "layer", "layer2")
    with pytest.raises(ConfigError, match=r"layer 'layer2': expected .* tiny .*: first, "):
        build_extractor(("window", "early"), kind)


@pytest.mark.parametrize(
    "changes",
    [{"max_windows": 100}, {"extractor": "rcnn", "max_windows": 20, "mirror_positives": False}],
    ids=["spp", "rcnn"],
)
def test_models_of_several_parts(
    more_parts, make_run, small_config, small_set, tmp_path, monkeypatch, changes
):
    more_parts("conv3")
    config = small_config(parts=("window", "surroundings", "early"), **changes)
    detector = make_run(tmp_path, small_set, config).train()
    # small5's last layer has 128 channels and 50 bins, conv3 has 96 and 5.
    lengths = (128 * 50, 128 * 50, 96 * 5)
    assert detector.extractor.lengths == lengths
    assert all(part.any() for part in detector.heads.svm_coef.split(lengths, dim=1))
    assert all(part.any() for part in detector.heads.regression_coef.split(lengths, dim=1))
    again = Detector.load(tmp_path, "cpu")
    assert again.config.parts == ("window", "surroundings", "early")
    photo = read_photo(small_set.photographs[0].path)
    windows = propose(photo, detector.proposal_settings)[:40]
    found = again.detect(photo, windows)
    assert len(found.boxes) > 0
    assert detector.detect(photo, windows) == found
    # Where one of the parts is not known, the file that names it is.
    monkeypatch.delitem(PARTS, "surroundings")
    with pytest.raises(ModelError, match=r"config\.json: .*surroundings.*: expected some of"):
        Detector.load(tmp_path, "cpu")
