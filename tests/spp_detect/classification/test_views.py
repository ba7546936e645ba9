"""Views of an image: which they are, what they score, how many passes of the trunk they cost."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from spp_detect.backbones import Backbone
from spp_detect.backbones.base import IMAGENET_RGB
from spp_detect.classification.config import NO_PYRAMID, ClassifierConfig
from spp_detect.classification.network import Classifier, ClassifierError
from spp_detect.classification.view_names import VIEW_NAMES
from spp_detect.classification.views import (
    VIEW_SCALES,
    VIEWS,
    Viewer,
    average,
    fit_size,
    list_views,
    locate_views,
    resize_image,
)

SIZE = 96


def make_viewer(**settings):
    torch.manual_seed(1)
    settings = {
        "backbone": "small5",
        "fc_depth": 0,
        "sizes": (SIZE,),
        "precision": "float32",
    } | settings
    network = Classifier(ClassifierConfig(**settings), ("a", "b", "c", "d")).eval()
    with torch.no_grad():  # far from equal probabilities
        network.fc8.weight.mul_(30)
    return Viewer(network, torch.device("cpu"))


def make_photo(height=150, width=230, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 10, width // 10, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_names():
    assert tuple(VIEWS) == VIEW_NAMES


def test_the_papers_windows_by_hand():
    assert list_views((10, 8), 4).tolist() == [
        [3, 2, 7, 6],  # centre
        [0, 0, 4, 4],  # corners
        [6, 0, 10, 4],
        [0, 4, 4, 8],
        [6, 4, 10, 8],
        [3, 0, 7, 4],  # mid-sides
        [3, 4, 7, 8],
        [0, 2, 4, 6],
        [6, 2, 10, 6],
    ]
    assert list_views((10, 4), 4).tolist() == [[3, 0, 7, 4], [0, 0, 4, 4], [6, 0, 10, 4]]


@pytest.mark.parametrize("shape", [(300, 400), (400, 300)])
def test_there_are_96_views(shape):
    """6 at 224 pixels, where the image is as high as a view, 18 at each of five more scales."""
    photo = np.zeros((*shape, 3), np.uint8)
    counts = [2 * len(list_views(fit_size(photo, scale), 224)) for scale in VIEW_SCALES]
    assert counts == [6, 18, 18, 18, 18, 18]


def score_slowly(viewer, crops):
    """Softmax of the network on crops, one by one, as torch computes it."""
    network = viewer.network
    with torch.no_grad():
        scores = [network(network.trunk.normalise(np.ascontiguousarray(c))) for c in crops]
        return functional.softmax(torch.cat(scores), 1).numpy()


def score_views(viewer, photo, views):
    return viewer.score([viewer.pool(photo, views)])[0]


def test_ten_crops_one_by_one():
    viewer, photo = make_viewer(), make_photo()
    resized = cv2.resize(photo, (169, 110), interpolation=cv2.INTER_AREA)  # 96 · 256/224 = 110
    starts = [(36, 7), (0, 0), (73, 0), (0, 14), (73, 14)]
    crops = [resized[y : y + SIZE, x : x + SIZE] for x, y in starts]
    expected = score_slowly(viewer, crops + [crop[:, ::-1] for crop in crops])
    np.testing.assert_allclose(score_views(viewer, photo, "ten").numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(viewer.look(photo, "centre"), expected[0], atol=1e-5)
    np.testing.assert_allclose(viewer.look(photo, "ten"), expected.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("views", VIEW_NAMES)
def test_images_together_as_one_by_one(views):
    viewer = make_viewer(fc_depth=2, fc_width=64)
    photos = [make_photo(), make_photo(240, 130, seed=1), make_photo(110, 110, seed=2)]
    alone = [viewer.look(photo, views) for photo in photos]
    together = average(viewer.score([viewer.pool(photo, views) for photo in photos]))
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert np.ptp(alone, axis=0).max() > 1e-4


def test_the_full_image_in_one_pass():
    viewer, photo = make_viewer(), make_photo()
    resized = resize_image(photo, 110)
    assert resized.shape == (110, 169, 3)
    expected = score_slowly(viewer, [resized, resized[:, ::-1]]).mean(axis=0)
    np.testing.assert_allclose(viewer.look(photo, "full"), expected, atol=1e-5)


def test_views_on_a_map_by_hand():
    """Maps of stride 8, of which a crop's has 5 cells along a side."""
    views = np.array([[0, 0, 40, 40], [8, 11, 48, 51], [12, 24, 52, 64], [24, 30, 64, 70]])
    cells = locate_views(views.astype(np.float32), 8, 5, (8, 8))
    assert cells.tolist() == [[0, 0, 4, 4], [1, 1, 5, 5], [2, 3, 6, 7], [3, 3, 7, 7]]


def test_without_borders_views_on_maps_are_those_of_crops():
    """A trunk without padding sees the same of a crop, and of the image where the crop lies."""
    network = make_viewer().network
    layers = nn.Sequential(nn.Conv2d(3, network.trunk.channels, 8, stride=8), nn.ReLU())
    network.trunk = Backbone("plain", layers, network.trunk.channels, IMAGENET_RGB)
    viewer, photo = Viewer(network, torch.device("cpu")), make_photo(112, 160)
    on_maps = viewer.pool_on_maps(photo, 112)
    crops = [viewer.pool_crops(one, 112)[:9] for one in (photo, photo[:, ::-1])]
    assert len(on_maps) == 18
    torch.testing.assert_close(on_maps, torch.cat(crops))


@pytest.mark.parametrize("backbone", ["small5", "zf5"])
def test_views_on_maps_are_nearest_to_their_own_crops(backbone):
    viewer = make_viewer(backbone=backbone)
    start_by_he(viewer.network.trunk)
    photo = make_photo(192, 288)
    crops = viewer.pool_crops(photo, 192)[:9]
    on_maps = viewer.pool_on_maps(photo, 192)[:9]
    assert torch.cdist(on_maps, crops).argmin(dim=1).tolist() == list(range(9))


def start_by_he(trunk):
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)


def count_passes(viewer, photo, views):
    calls = []
    handle = viewer.network.trunk.register_forward_hook(lambda *_: calls.append(1))
    viewer.look(photo, views)
    handle.remove()
    return len(calls)


def test_96_views_cost_a_pass_for_each_scale_and_mirror_image():
    viewer, photo = make_viewer(), make_photo()
    # A trunk without batch norms, in float32, is not copied: the hook sees each pass.
    viewer.trunk._frozen = viewer.network.trunk
    assert count_passes(viewer, photo, "96-on-maps") == 12
    assert count_passes(viewer, photo, "full") == 2
    assert count_passes(viewer, photo, "all") == 14


def test_averages_of_views_weigh_each_alike():
    viewer, photo = make_viewer(), make_photo()
    ninety_six = score_views(viewer, photo, "96-on-maps")
    full = score_views(viewer, photo, "full")
    assert (len(ninety_six), len(full)) == (96, 2)
    mean = torch.cat([ninety_six, full]).double().mean(0).numpy()
    np.testing.assert_allclose(viewer.look(photo, "all"), mean, atol=1e-12)


@pytest.mark.parametrize("shape", [(100, 1000), (1000, 100), (7, 300), (300, 7), (1, 1), (31, 32)])
@pytest.mark.parametrize("views", VIEW_NAMES)
def test_images_of_any_size_and_shape(shape, views):
    probabilities = make_viewer().look(np.full((*shape, 3), 90, np.uint8), views)
    assert probabilities.shape == (4,)
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


def test_without_a_pyramid_only_crops():
    viewer = make_viewer(levels=NO_PYRAMID)
    assert viewer.look(make_photo(), "ten").shape == (4,)
    with pytest.raises(ClassifierError, match="views full: expected centre or ten"):
        viewer.look(make_photo(), "full")


@pytest.mark.gpu
@pytest.mark.parametrize("views", VIEW_NAMES)
def test_a_gpu_says_what_the_cpu_says(views):
    photo = make_photo()
    expected = make_viewer(fc_depth=2, fc_width=64).look(photo, views)
    viewer = Viewer(make_viewer(fc_depth=2, fc_width=64).network, torch.device("cuda"))
    np.testing.assert_allclose(viewer.look(photo, views), expected, atol=1e-4)
