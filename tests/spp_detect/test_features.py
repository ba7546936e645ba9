"""Maps and pooled windows against loops over windows; photographs of odd shapes."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from spp_detect.backbones import Backbone, InputFormat, build_backbone
from spp_detect.config import make_config
from spp_detect.features import choose_device
from spp_detect.spp import PhotoMaps, SppExtractor, resized_size

CPU = torch.device("cpu")
STRIDE, CENTRE = 16, 6.0


@pytest.fixture(autouse=True)
def one_thread():
    """Many small poolings: where other work is going on, torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build_tiny():
    """A random trunk of stride 16, its cell 0 centred on (7-1)/2 - 1 + 4·((5-1)/2 - 1) = 6."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 5, 7, stride=4, padding=1),  # 2
        nn.Tanh(),
        nn.Conv2d(5, 6, 5, stride=4, padding=1),  # 2 + 1·4 = 6
    )
    backbone = Backbone("tiny", layers, 6, InputFormat("rgb", (100.0,) * 3, (60.0,) * 3))
    assert (backbone.grid.stride, backbone.grid.centre) == (STRIDE, CENTRE)
    return backbone


def build_extractor(preset="release", scales=(160,), levels=(3, 2, 1), **changes):
    rules = {"projection": preset, "scale_rule": preset}
    config = make_config(scales=scales, levels=levels, **rules, **changes)
    return SppExtractor(build_tiny(), config, CPU)


def random_photo(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_windows(count, width, height, seed=0):
    rng = np.random.default_rng(seed)
    x = np.sort(rng.integers(0, width + 1, (count, 2)), axis=1)
    y = np.sort(rng.integers(0, height + 1, (count, 2)), axis=1)
    windows = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)
    empty = (x[:, 0] == x[:, 1]) | (y[:, 0] == y[:, 1])
    windows[empty] = (0, 0, width, height)
    return windows.astype(np.float32)


def choose_slowly(window, sides, short_side, rule):
    x1, y1, x2, y2 = (float(v) for v in window)
    area = (x2 - x1) * (y2 - y1)
    if rule == "paper":
        far = [abs(area * (s / short_side) ** 2 - 224**2) for s in sides]
    else:
        wanted = math.floor(208 * short_side / math.sqrt(area) + 0.5)
        far = [abs(s - wanted) for s in sides]
    return far.index(min(far))


def cells_slowly(low, high, factor, cells, rule):
    """Cells of one axis: half-open pixels low … high; the paper's rule is that of half a stride."""
    offset = 6.5 if rule == "release" else 8
    first = math.floor((low * factor - CENTRE + offset) / STRIDE + 0.5)
    last = math.ceil(((high - 1) * factor - CENTRE - offset) / STRIDE - 0.5)
    if first > last:
        first = last = (first + last) // 2
    return max(0, min(first, cells - 1)), max(0, min(last, cells - 1))


def pool_slowly(maps, window, config):
    k = choose_slowly(window, maps.sides, min(maps.size), config.scale_rule)
    factor = (maps.sides[k] - 1) / (min(maps.size) - 1)
    height, width, _ = maps.maps[""][k].shape
    x1, y1, x2, y2 = (float(v) for v in window)
    left, right = cells_slowly(x1, x2, factor, width, config.projection)
    top, bottom = cells_slowly(y1, y2, factor, height, config.projection)
    crop = maps.maps[""][k][top : bottom + 1, left : right + 1].permute(2, 0, 1).contiguous()
    pooled = [functional.adaptive_max_pool2d(crop, n).flatten() for n in config.levels]
    return (k, left, top, right, bottom), torch.cat(pooled)


@pytest.mark.parametrize("preset", ["release", "paper"])
@pytest.mark.parametrize("scales", [(160,), (96, 160, 240), (240, 96)])
@pytest.mark.parametrize("size", [(90, 70), (70, 131)])
def test_pooled_windows_equal_the_loop(preset, scales, size):
    extractor = build_extractor(preset, scales)
    maps = extractor.compute_maps(random_photo(*size))
    windows = random_windows(80, *size)
    pooled = maps.pool(windows)
    where, wanted = zip(*(pool_slowly(maps, w, extractor.config) for w in windows), strict=True)
    assert pooled.features.dtype == maps.maps[""][0].dtype
    assert torch.equal(pooled.features[torch.from_numpy(pooled.inverse)], torch.stack(wanted))
    # Same scale and same cells: pooled once, and the first such window stands for the others.
    assert len(pooled.features) == len(set(where))
    assert pooled.first.tolist() == sorted(where.index(cells) for cells in set(where))
    if len(scales) == 3:
        assert len({cells[0] for cells in where}) > 1  # the scales are really used


def test_duplicates_are_pooled_once(monkeypatch):
    extractor = build_extractor(scales=(96, 240))
    maps = extractor.compute_maps(random_photo(90, 70))
    counted = Counter()
    pool_on_maps = extractor.pyramids[0].pool_on_maps

    def count(its_maps, numbers, cells):
        counted.update(map(tuple, cells.tolist()))
        return pool_on_maps(its_maps, numbers, cells)

    monkeypatch.setattr(extractor.pyramids[0], "pool_on_maps", count)
    window = np.array([[10, 10, 60, 60]], np.float32)
    other = np.array([[30, 0, 90, 70]], np.float32)
    windows = np.concatenate([window, other, window, window + 0.01, other])
    pooled = maps.pool(windows)
    assert sum(counted.values()) == len(pooled.features) == 2
    assert pooled.first.tolist() == [0, 1]
    assert pooled.inverse.tolist() == [0, 1, 0, 0, 1]


def test_no_windows():
    for scales in ((160,), (96, 160)):
        extractor = build_extractor(scales=scales)
        maps = extractor.compute_maps(random_photo(90, 70))
        pooled = maps.pool(np.zeros((0, 4), np.float32))
        assert pooled.features.shape == (0, 6 * 14)
        assert pooled.first.shape == pooled.inverse.shape == (0,)


def test_maps_in_half_precision_are_pooled_as_they_are():
    extractor = build_extractor()
    maps = extractor.compute_maps(random_photo(90, 70))
    halves = replace(maps, maps={"": tuple(m.half() for m in maps.maps[""])})
    windows = random_windows(30, 90, 70)
    pooled = halves.pool(windows)
    assert pooled.features.dtype == torch.float16
    # Rounding keeps the order, so the maximum of the rounded is the rounded maximum.
    unrounded = maps.pool(windows)
    assert torch.equal(pooled.features, unrounded.features.half())


def test_bfloat16_changes_maps_a_little():
    photo = random_photo(90, 70)
    exact, rounded = (
        build_extractor(scales=(70,), precision=name).compute_maps(photo).maps[""][0]
        for name in ("float32", "bfloat16")
    )
    assert exact.dtype == torch.float32
    assert rounded.dtype == torch.bfloat16
    assert not torch.equal(exact, rounded.float())
    # Eight bits: each of a few layers rounds by 1/256 at most.
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.02 * float(exact.abs().max()))


def test_maps_are_the_trunks_channels_last():
    extractor = build_extractor(scales=(70, 160), precision="float32")
    photo = random_photo(90, 70)
    maps = extractor.compute_maps(photo)
    assert maps.size == (90, 70)
    assert maps.sides == (70, 160)
    assert len(maps.maps[""]) == 2
    # At the photograph's own size nothing is resized.
    with torch.inference_mode():
        wanted = extractor.backbone(extractor.backbone.normalise(photo))[0]
    assert maps.maps[""][0].shape == (*wanted.shape[1:], 6)
    for channel in range(6):
        torch.testing.assert_close(maps.maps[""][0][:, :, channel], wanted[channel])
    assert all(m.is_contiguous() and m.dtype == torch.float32 for m in maps.maps[""])
    assert not any(m.requires_grad for m in maps.maps[""])


def test_resizing_is_bilinear_without_antialiasing():
    """Against torch's own; OpenCV rounds to whole values, at most one off."""
    extractor = build_extractor(scales=(48,))
    extractor.trunk = lambda pixels: {"": pixels}
    extractor.backbone.normalise = lambda photo: (
        torch.from_numpy(photo).float().permute(2, 0, 1)[None]
    )
    photo = random_photo(210, 150)
    pixels = torch.from_numpy(photo).float().permute(2, 0, 1)[None]
    wanted = functional.interpolate(pixels, (48, 67), mode="bilinear", align_corners=False)
    (seen,) = extractor.compute_maps(photo).maps[""]
    assert seen.shape == (48, 67, 3)
    assert (seen - wanted[0].permute(1, 2, 0)).abs().max() <= 1.0


def test_length():
    assert build_extractor().length == 6 * 14
    assert SppExtractor(build_backbone("resnet18"), make_config(), CPU).length == 12_800


@pytest.mark.parametrize(
    ("size", "scale", "limit", "wanted"),
    [
        ((500, 375), 688, 6000, (917, 688)),  # 500 · 688/375 = 917.3
        ((375, 500), 688, 6000, (688, 917)),
        ((333, 500), 480, 6000, (480, 721)),
        ((4000, 3000), 480, 6000, (640, 480)),
        ((5000, 100), 688, 6000, (6000, 120)),
        ((100, 5000), 688, 6000, (120, 6000)),
        ((10_000, 1), 688, 6000, (6000, 1)),
        ((1, 1), 688, 6000, (688, 688)),
        ((1, 300), 688, 6000, (20, 6000)),
    ],
)
def test_resized_size_hand_worked(size, scale, limit, wanted):
    assert resized_size(size, scale, limit) == wanted


@given(
    width=st.integers(1, 20_000),
    height=st.integers(1, 20_000),
    scale=st.integers(16, 2000),
    limit=st.integers(2000, 8000),
)
def test_resized_size_keeps_within_both_bounds(width, height, scale, limit):
    w, h = resized_size((width, height), scale, limit)
    assert 1 <= min(w, h) <= scale
    assert max(w, h) <= limit
    assert max(w, h) == limit or min(w, h) == scale
    factor = max(w, h) / max(width, height)
    assert abs(w - max(1, width * factor)) <= 1
    assert abs(h - max(1, height * factor)) <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 900), (900, 2), (3, 3)])
def test_photographs_one_or_few_pixels_wide(size):
    extractor = build_extractor(scales=(96, 160), long_side_limit=1200)
    maps = extractor.compute_maps(random_photo(*size))
    windows = random_windows(20, *size)
    pooled = maps.pool(windows)
    assert len(pooled.inverse) == 20
    assert torch.isfinite(pooled.features).all()


@pytest.mark.parametrize("name", ["zf5", "zf5_paper", "alexnet", "squeezenet1_1", "resnet18"])
@pytest.mark.parametrize("size", [(2, 1000), (1000, 2), (1, 30), (6, 6)])
def test_every_trunk_takes_photographs_of_any_shape(name, size):
    """Even where the limit of the long side leaves a strip narrower than the trunk's kernels."""
    config = make_config(backbone=name, scales=(48,), long_side_limit=600)
    extractor = SppExtractor(build_backbone(name), config, CPU)
    maps = extractor.compute_maps(random_photo(*size))
    pooled = maps.pool(np.array([[0, 0, *size]], np.float32))
    assert pooled.features.shape == (1, extractor.length)
    assert torch.isfinite(pooled.features).all()


def column_map(extractor, size, height, width):
    """A map that tells where it was pooled: each cell holds its column and minus its column."""
    columns = torch.arange(float(width)).expand(height, width)
    one_map = torch.stack([columns, -columns], dim=2).contiguous()
    return PhotoMaps(size, extractor.sides(size), {"": (one_map,)}, extractor)


@pytest.mark.parametrize(
    "size", [(4000, 1000), (6000, 100), (12_000, 100), (12_000, 40), (9000, 2)]
)
def test_windows_of_panoramas_keep_their_place(size):
    """The factor of the short side alone is coarse where that side is a few pixels."""
    extractor = build_extractor(scales=(688,), levels=(1,))
    resized = resized_size(size, 688, extractor.config.long_side_limit)
    cells = resized[0] // STRIDE
    maps = column_map(extractor, size, max(1, resized[1] // STRIDE), cells)
    starts = np.linspace(0, size[0] * 0.95, 12).round()
    for start in starts:
        window = np.array([[start, 0, start + size[0] // 20, size[1]]], np.float32)
        right, left = maps.pool(window).features[0].tolist()
        factor = resized[0] / size[0]
        wanted_left = (window[0, 0] * factor - CENTRE) / STRIDE
        wanted_right = (window[0, 2] * factor - CENTRE) / STRIDE
        assert -left == pytest.approx(np.clip(wanted_left, 0, cells - 1), abs=1.5)
        assert right == pytest.approx(np.clip(wanted_right, 0, cells - 1), abs=1.5)


def test_choose_device(monkeypatch):
    assert choose_device("cpu") == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == CPU
    with pytest.raises(ValueError, match="torch sees no GPU"):
        choose_device("cuda")
    for name in ("gpu", "", "cuda:1"):
        with pytest.raises(ValueError, match="expected auto, cpu or cuda"):
            choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda")


@pytest.fixture
def defaults():
    """What decides how a GPU computes, as torch has it by default; set back afterwards."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    names = (cudnn, "allow_tf32"), (cudnn, "deterministic"), (cudnn, "benchmark")
    before = [(one, name, getattr(one, name)) for one, name in (*names, (matmul, "allow_tf32"))]
    cudnn.allow_tf32 = cudnn.benchmark = matmul.allow_tf32 = True
    cudnn.deterministic = False
    yield cudnn, matmul
    for one, name, value in before:
        setattr(one, name, value)


def test_a_gpu_computes_float32_as_such_and_convolutions_alike(defaults, monkeypatch):
    cudnn, matmul = defaults
    choose_device("cpu")
    assert cudnn.allow_tf32 and matmul.allow_tf32
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    choose_device("auto")
    assert not (cudnn.allow_tf32 or matmul.allow_tf32 or cudnn.benchmark) and cudnn.deterministic


def test_real_photographs(mini_voc):
    """A window of the whole photograph is the whole map, and no window is out of place."""
    from data import read_photo

    extractor = build_extractor(scales=(240,))
    for path in sorted((mini_voc / "JPEGImages").glob("*.jpg"))[:3]:
        photo = read_photo(path)
        maps = extractor.compute_maps(photo)
        size = photo.shape[1::-1]
        pooled = maps.pool(random_windows(50, *size))
        wanted = [pool_slowly(maps, w, extractor.config)[1] for w in random_windows(50, *size)]
        assert torch.equal(pooled.features[torch.from_numpy(pooled.inverse)], torch.stack(wanted))
