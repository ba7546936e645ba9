"""Warped crops against loops over pixels, R-CNN's features against a loop over windows."""

import numpy as np
import pytest
import torch
from torch import nn

from spp_detect import rcnn
from spp_detect.backbones import Backbone, InputFormat, build_backbone
from spp_detect.config import make_config
from spp_detect.rcnn import CONTEXT, CROP_SIDE, RcnnExtractor, warp_windows
from spp_detect.spp import SppExtractor

CPU = torch.device("cpu")
INNER = CROP_SIDE - 2 * CONTEXT
WIDTH, HEIGHT = 50, 40

# Inside, at each border, in a corner, the whole photograph, one pixel, long and thin, fractions.
WINDOWS = np.array(
    [
        [10, 8, 30, 33],
        [0, 10, 12, 20],
        [38, 5, 50, 30],
        [10, 0, 20, 9],
        [15, 30, 40, 40],
        [44, 36, 50, 40],
        [0, 0, 50, 40],
        [7, 9, 8, 10],
        [2, 20, 49, 22],
        [3.25, 4.5, 21.75, 30.125],
    ],
    np.float32,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Many small passes: where other work is going on, torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_pixels(seed=0):
    return torch.randn(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def random_photo(seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def build_tiny():
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 5, 16, stride=16), nn.Tanh())
    return Backbone("tiny", layers, 5, InputFormat("rgb", (100.0,) * 3, (60.0,) * 3))


def warp_axis_slowly(low, high, length):
    """Of each crop pixel along one axis: the photograph's two pixels and the second's weight."""
    scale = (high - low) / INNER
    for j in range(CROP_SIDE):
        # The centre of pixel j lies at j + 0.5 in half-open coordinates.
        position = low + (j + 0.5 - CONTEXT) * scale - 0.5
        before = int(np.floor(position))
        yield j, before, position - before


def warp_slowly(pixels, window):
    """Bilinear with zeros outside, a pixel of the photograph after the other."""
    x1, y1, x2, y2 = (float(v) for v in window)
    photo = pixels[0].double().numpy()
    across = np.zeros((WIDTH, CROP_SIDE))
    down = np.zeros((HEIGHT, CROP_SIDE))
    for weights, low, high in ((across, x1, x2), (down, y1, y2)):
        for j, before, share in warp_axis_slowly(low, high, len(weights)):
            for i, weight in ((before, 1 - share), (before + 1, share)):
                if 0 <= i < len(weights):
                    weights[i, j] += weight
    return torch.from_numpy(np.einsum("chw,hy,wx->cyx", photo, down, across))


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_warp_equals_the_loop(window):
    pixels = random_pixels()
    (crop,) = warp_windows(pixels, torch.from_numpy(window[None]))
    torch.testing.assert_close(crop.double(), warp_slowly(pixels, window), atol=1e-3, rtol=0)


def test_a_batch_of_crops_equals_single_ones():
    pixels, windows = random_pixels(), torch.from_numpy(WINDOWS)
    crops = warp_windows(pixels, windows)
    assert crops.shape == (len(WINDOWS), 3, CROP_SIDE, CROP_SIDE)
    assert crops.is_contiguous(memory_format=torch.channels_last)
    for i in range(len(WINDOWS)):
        torch.testing.assert_close(crops[i : i + 1], warp_windows(pixels, windows[i : i + 1]))


@pytest.mark.parametrize("window", [(10, 10, 20, 30), (16, 4, 40, 24), (25, 15, 45, 25)])
def test_a_white_window_fills_all_but_the_context(window):
    """Drawn white on black, every edge of a window lies 16 pixels from the edge of its crop."""
    x1, y1, x2, y2 = window
    pixels = torch.zeros(1, 3, HEIGHT, WIDTH)
    pixels[:, :, y1:y2, x1:x2] = 1
    (crop,) = warp_windows(pixels, torch.tensor([window], dtype=torch.float32))
    white = crop[0] > 0.5
    rows, columns = white.any(1).nonzero()[:, 0], white.any(0).nonzero()[:, 0]
    assert (rows[0].item(), rows[-1].item()) == (CONTEXT, CROP_SIDE - CONTEXT - 1)
    assert (columns[0].item(), columns[-1].item()) == (CONTEXT, CROP_SIDE - CONTEXT - 1)


def test_the_context_shows_what_is_beside_the_window():
    """A window 24 pixels wide is enlarged 8 times: 16 pixels of context are 2 of the photograph."""
    window = torch.tensor([[12, 10, 36, 34]], dtype=torch.float32)
    columns = []
    for x in (11, 10, 8):  # one and two pixels left of the window, and too far
        pixels = torch.zeros(1, 3, HEIGHT, WIDTH)
        pixels[:, :, 20, x] = 1
        (crop,) = warp_windows(pixels, window)
        columns.append(crop[0].sum(0))
    # The middle of pixel 11 lies half a pixel, 4 of the crop, left of the window's edge.
    assert columns[0].argmax().item() in (CONTEXT - 5, CONTEXT - 4)
    assert columns[1].argmax().item() in (CONTEXT - 13, CONTEXT - 12)
    assert (columns[2] == 0).all()


def test_outside_the_photograph_is_the_mean():
    pixels = torch.ones(1, 3, HEIGHT, WIDTH)
    (crop,) = warp_windows(pixels, torch.tensor([[0, 0, WIDTH, HEIGHT]], dtype=torch.float32))
    edge = CROP_SIDE / WIDTH  # more than half a pixel of the photograph
    inside = slice(CONTEXT + int(edge) + 1, CROP_SIDE - CONTEXT - int(edge) - 1)
    assert torch.allclose(crop[:, inside, inside], torch.ones(()))
    for border in (crop[:, :10], crop[:, -10:], crop[:, :, :10], crop[:, :, -10:]):
        assert (border == 0).all()


def test_features_equal_one_window_at_a_time():
    config = make_config(levels=(3, 2, 1), precision="float32")
    extractor = RcnnExtractor(build_tiny(), config, CPU)
    photo = random_photo()
    source = extractor.compute_maps(photo)
    assert source.size == (WIDTH, HEIGHT)
    pooled = source.pool(WINDOWS)
    assert pooled.features.shape == (len(WINDOWS), extractor.length) == (10, 5 * 14)
    assert pooled.features.dtype == torch.float32
    assert not pooled.features.requires_grad
    pixels = extractor.backbone.normalise(photo)
    for window, feature in zip(WINDOWS, pooled.features, strict=True):
        with torch.inference_mode():
            maps = extractor.backbone(warp_slowly(pixels, window)[None].float())
            wanted = [nn.functional.adaptive_max_pool2d(maps, n).flatten() for n in (3, 2, 1)]
        torch.testing.assert_close(feature, torch.cat(wanted), atol=1e-4, rtol=1e-4)


def test_a_feature_is_ordered_as_spp_nets():
    """A crop's whole map, pooled by either extractor."""
    extractor = RcnnExtractor(build_tiny(), make_config(precision="float32"), CPU)
    source = extractor.compute_maps(random_photo())
    with torch.inference_mode():
        maps = extractor.backbone(warp_windows(source.pixels, torch.from_numpy(WINDOWS[:1])))
    whole = torch.tensor([[0, 0, maps.shape[3] - 1, maps.shape[2] - 1]], dtype=torch.int32)
    channels_last = maps[0].permute(1, 2, 0).contiguous()
    wanted = extractor.pyramids[0].pool_windows(channels_last, whole)
    torch.testing.assert_close(source.pool(WINDOWS[:1]).features, wanted)


def test_duplicates_are_computed_once(monkeypatch):
    extractor = RcnnExtractor(build_tiny(), make_config(), CPU)
    warped = []

    def count(pixels, windows):
        warped.append(len(windows))
        return warp_windows(pixels, windows)

    monkeypatch.setattr(rcnn, "warp_windows", count)
    windows = WINDOWS[[3, 0, 3, 1, 0]]
    pooled = extractor.compute_maps(random_photo()).pool(windows)
    assert sum(warped) == len(pooled.features) == 3
    assert pooled.first.tolist() == [0, 1, 3]
    assert pooled.inverse.tolist() == [0, 1, 0, 2, 1]


def test_no_windows():
    extractor = RcnnExtractor(build_tiny(), make_config(), CPU)
    pooled = extractor.compute_maps(random_photo()).pool(np.zeros((0, 4), np.float32))
    assert pooled.features.shape == (0, extractor.length)
    assert pooled.first.shape == pooled.inverse.shape == (0,)


@pytest.mark.parametrize("name", ["zf5", "alexnet", "small5"])
def test_features_are_as_long_as_spp_nets(name):
    backbone = build_backbone(name)
    extractor = RcnnExtractor(backbone, make_config(backbone=name), CPU)
    pooled = extractor.compute_maps(random_photo()).pool(WINDOWS[:2])
    assert extractor.length == SppExtractor(backbone, extractor.config, CPU).length
    assert pooled.features.shape == (2, extractor.length)
    assert torch.isfinite(pooled.features).all()
