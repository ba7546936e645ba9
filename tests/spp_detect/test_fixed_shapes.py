"""Detection in fixed shapes: what the CPU finds, and without a look at values on the way."""

import copy
import dataclasses

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bbox_regression import decode, decode_tensor
from data import read_photo
from proposals import propose
from spp_detect.backbones import build_backbone
from spp_detect.config import make_config
from spp_detect.detector import Detector
from spp_detect.fixed_shapes import Found, Promising, collect, find_promising, select
from spp_detect.heads import Heads
from spp_detect.postprocess import ScoredWindows, select_detections
from spp_detect.spp import SppExtractor, resize_tensor

WAYS = [{"regress": False}, {"vote": False}]
CHANGES = [
    {},
    {"passes": 1},
    {"passes": 2, "vote_iou": None},
    {"score_threshold": -1.1, "support": 0.0, "nms_iou": 0.5},
    {"passes": 1, "max_detections": 2},
    {"mirror": True},
]


def check_same(found, wanted):
    """The same boxes in the same order, but for the last bits."""
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)


def check_detector(detector, photographs, **way):
    """Check that a detector finds the same in fixed shapes."""
    count = 0
    for photograph in photographs:
        photo = read_photo(photograph.path)
        windows = propose(photo, detector.proposal_settings)
        wanted = detector.detect(photo, windows, **way)
        check_same(Found.send(detector.find_all(photo, windows, **way)).read(), wanted)
        count += len(wanted)
    assert count > 5


@pytest.mark.parametrize(
    ("changes", "way"),
    [*((changes, {}) for changes in CHANGES), *((CHANGES[k], w) for k in (0, 1) for w in WAYS)],
)
def test_finds_what_the_cpu_finds(small_detector, small_set, changes, way):
    check_detector(small_detector.change(**changes), small_set.photographs[:1], **way)


@pytest.mark.parametrize("changes", [{"scales": (160, 190, 230)}, {"regression_inclusive": True}])
def test_with_several_scales_and_inclusive_boxes(small_detector, small_set, changes):
    config = dataclasses.replace(small_detector.config, **changes)
    extractor = SppExtractor(small_detector.extractor.backbone, config, torch.device("cpu"))
    parts = small_detector.classes, extractor, small_detector.heads
    check_detector(Detector(config, *parts), small_set.photographs[:1])


def test_on_real_photographs(mini_voc, shared_weights):
    """The ready model finds the same, box for box, but for what last bits can move."""
    weights = shared_weights / "resnet18_conv1_layer3.safetensors"
    detector = Detector.load("voc2007", "cpu", str(weights)).change(score_threshold=-1.0)
    for name in ("000005", "000030"):
        photo = read_photo(mini_voc / "JPEGImages" / f"{name}.jpg")
        windows = propose(photo, detector.proposal_settings)[:800]
        wanted = detector.detect(photo, windows)
        found = Found.send(detector.find_all(photo, windows)).read()
        assert len(wanted) >= 10
        same = [
            (np.abs(found.boxes[found.labels == label] - box).max(axis=1) < 0.05).any()
            for box, _, label in wanted
        ]
        assert np.mean(same) > 0.97
        assert all(same[:5])
        assert abs(len(found) - len(wanted)) <= 0.03 * len(wanted)


def test_without_windows(small_detector, small_set):
    photo = read_photo(small_set.photographs[0].path)
    none = np.zeros((0, 4), np.float32)
    assert len(Found.send(small_detector.find_all(photo, none)).read()) == 0


def make_scored(count, classes, seed):
    """Random windows with ties among their scores, and heads that move them."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(0, 60, (count, 4))
    boxes[:, 2:] += boxes[:, :2] + 5
    scores = rng.integers(-16, 10, (count, classes)) / 8
    heads = Heads.empty(classes, 3, 3)
    heads.regression_coef.copy_(torch.from_numpy(rng.normal(0, 0.2, (classes, 3, 4))))
    given = [torch.from_numpy(one.astype(np.float32)) for one in (boxes, scores)]
    features = torch.from_numpy(rng.normal(size=(count, 3)).astype(np.float32))
    return ScoredWindows(*given, features, torch.arange(count), (130, 130), heads)


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_selects_among_random_windows(seed, passes):
    scored = make_scored(120, 4, seed)
    config = make_config(passes=passes, max_detections=9)
    wanted = select_detections([scored], config)
    candidates = collect(scored, [], moved=passes == 1)
    check_same(Found.send(select(candidates, config, voting=True)).read(), wanted)


@pytest.mark.parametrize("most", [1, 17, 200, 5000])
def test_the_same_windows_are_promising(most):
    scored = make_scored(60, 5, 1)
    scored.scores.add_(torch.rand(scored.scores.shape, generator=torch.Generator().manual_seed(0)))
    rows, classes = scored.find_promising(-1.0, most)
    found = find_promising(scored, -1.0, most)
    assert len(found.rows) == min(most, 300)
    np.testing.assert_array_equal(found.rows[found.counts], rows)
    np.testing.assert_array_equal(found.classes[found.counts], classes)


@pytest.mark.parametrize("seed", range(5))
def test_selects_among_windows_of_several_passes(seed):
    first, second = make_scored(90, 4, seed), make_scored(70, 4, seed + 9)
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 4, 70)
    counts = torch.from_numpy(rng.random(70) < 0.7)
    config = make_config(max_detections=20)
    promising = Promising(torch.arange(70), torch.from_numpy(classes), counts)
    own = second.restrict(classes)
    own = dataclasses.replace(own, scores=own.scores.masked_fill(~counts[:, None], -torch.inf))
    wanted = select_detections([first, own], config)
    candidates = collect(first, [(second, promising)], moved=False)
    check_same(Found.send(select(candidates, config, voting=True)).read(), wanted)


def test_windows_that_fill_up_are_not_found():
    """With one window of two promising, the other is moved, too, and takes no part."""
    scored = make_scored(2, 1, 0)
    scored.scores[:] = torch.tensor([[0.5], [-1.4]])
    promising = find_promising(scored, -1.0, 9)
    candidates = collect(scored, [(scored, promising)], moved=False)
    assert promising.counts.tolist() == [True, False]
    assert candidates.scores.tolist() == [pytest.approx([0.5, -1.4, 0.5, -np.inf])]


@pytest.mark.parametrize("inclusive", [False, True])
def test_boxes_are_moved_as_by_numpy(inclusive):
    rng = np.random.default_rng(0)
    windows = rng.uniform(0, 90, (500, 4)).astype(np.float32)
    windows[:, 2:] += windows[:, :2] + 0.5
    targets = rng.normal(0, 0.5, (500, 4))
    wanted = decode(windows, targets, (120, 80), inclusive=inclusive)
    given = torch.from_numpy(windows), torch.from_numpy(targets)
    found = decode_tensor(*given, (120, 80), inclusive=inclusive)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("size", [(688, 500), (60, 45), (3, 700), (333, 250)])
def test_photographs_are_resized_as_by_opencv(size):
    """OpenCV weighs pixels in fixed point: one value in ten is one off, none is by more."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (25, 33, 3), np.uint8)
    photo = cv2.resize(small, (333, 250), interpolation=cv2.INTER_CUBIC)
    wanted = cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR)
    below, right = max(0, 48 - size[1]), max(0, 48 - size[0])
    wanted = cv2.copyMakeBorder(wanted, 0, below, 0, right, cv2.BORDER_REPLICATE)
    found = resize_tensor(torch.from_numpy(photo), size)[0].permute(1, 2, 0).numpy()
    difference = np.abs(found - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.2


@pytest.mark.parametrize("name", ["resnet18", "zf5"])
def test_pixels_are_normalised_as_on_the_cpu(name):
    photo = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    backbone = build_backbone(name)
    pixels = torch.from_numpy(photo).permute(2, 0, 1)[None].float()
    wanted = backbone.normalise(photo)
    torch.testing.assert_close(backbone.normalise_tensor(pixels), wanted, rtol=1e-6, atol=1e-6)


def test_boxes_are_pooled_as_windows_are(small_detector, small_set):
    photo = read_photo(small_set.photographs[0].path)
    config = dataclasses.replace(small_detector.config, scales=(160, 190, 230))
    backbone = small_detector.extractor.backbone
    maps = SppExtractor(backbone, config, torch.device("cpu")).compute_maps(photo)
    windows = propose(photo, small_detector.proposal_settings)
    windows = np.concatenate([windows, [[0, 0, *photo.shape[1::-1]]]]).astype(np.float32)
    pooled = maps.pool(windows)
    assert len(np.unique(maps._locate(windows)[:, 0])) == 3
    assert torch.equal(maps.pool_boxes(torch.from_numpy(windows)), pooled.features[pooled.inverse])


ELSEWHERE = torch.device("meta")  # a device that is always there, and has no values of its own
LOOKS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal")


class Away(torch.Tensor):
    """A tensor that says it lies elsewhere; its values are in `here`."""

    @staticmethod
    def __new__(cls, here):
        form = {"strides": here.stride(), "storage_offset": here.storage_offset()}
        form |= {"dtype": here.dtype, "device": ELSEWHERE}
        with torch.inference_mode(False):  # else it could not be made
            return torch.Tensor._make_wrapper_subclass(cls, here.shape, **form)

    def __init__(self, here):
        self.here = here

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function}: outside of the mode")


class Pretend(TorchDispatchMode):
    """Computes what lies elsewhere here, and counts the looks at its values, copies among them."""

    def __init__(self):
        super().__init__()
        self.looks = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = function.name().removeprefix("aten::").partition(".")[0]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Away)]
        target = kwargs.get("device")
        if given and (name.startswith(LOOKS) or target == torch.device("cpu")):
            self.looks.append(name)
        by_truth = [one for one in given if one.dtype == torch.bool]
        if name.startswith("index") and any(one is not args[0] for one in by_truth):
            self.looks.append(name)
        if target == ELSEWHERE:
            kwargs["device"] = torch.device("cpu")
        bring = lambda one: one.here if isinstance(one, Away) else one  # noqa: E731
        made = function(*tree_map(bring, args), **tree_map(bring, kwargs))
        stays = given and target is None
        if not stays and target != ELSEWHERE:
            return made
        return tree_map(lambda one: Away(one) if isinstance(one, torch.Tensor) else one, made)


@pytest.fixture
def detector_elsewhere(small_detector, monkeypatch):
    """The small detector with its maps and heads elsewhere; only the trunk computes here."""
    detector = Detector(
        small_detector.config,
        small_detector.classes,
        SppExtractor(small_detector.extractor.backbone, small_detector.config, torch.device("cpu")),
        copy.deepcopy(small_detector.heads),
    )
    compute = detector.extractor.compute_maps

    def compute_maps(photo, watch=None):
        computed = compute(photo)
        maps = {name: tuple(map(Away, own)) for name, own in computed.maps.items()}
        return dataclasses.replace(computed, maps=maps)

    monkeypatch.setattr(detector.extractor, "compute_maps", compute_maps)
    detector.extractor.device = ELSEWHERE
    for name, values in list(detector.heads.named_buffers()):
        setattr(detector.heads, name, Away(values))
    return detector


@pytest.mark.parametrize("changes", CHANGES)
def test_nothing_is_read_back_before_the_detections(
    detector_elsewhere, small_detector, small_set, changes
):
    photo = read_photo(small_set.photographs[0].path)
    windows = propose(photo, small_detector.proposal_settings)
    detector = detector_elsewhere.change(**changes)
    with Pretend() as pretend:
        values = detector.find_all(photo, windows)
        assert values.device == ELSEWHERE
        assert pretend.looks == []
        copied = values.cpu()
        assert pretend.looks == ["_to_copy"]
    wanted = small_detector.change(**changes).find_all(photo, windows)
    assert copied.shape == (len(detector.classes), detector.config.max_detections, 5)
    torch.testing.assert_close(copied, wanted)


def test_looks_at_values_are_counted(detector_elsewhere, small_set):
    photo = read_photo(small_set.photographs[0].path)
    windows = propose(photo, detector_elsewhere.proposal_settings)
    with Pretend() as pretend:
        scores = Away(torch.tensor([1.0, -1.0]))
        assert scores.nonzero().shape == (2, 1)
        assert scores.max().item() == 1
        assert scores[scores > 0].shape == (1,)
        assert torch.equal(scores.to("cpu"), scores.here)
        assert pretend.looks == ["nonzero", "_local_scalar_dense", "index", "_to_copy"]
        detector_elsewhere.score_passes(photo, windows, 2)
        assert len(pretend.looks) > 6  # as it is done on the CPU


def test_photographs_come_in_order_where_one_is_begun_ahead(small_detector, small_set, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"none")
    paths = [one.path for one in small_set.photographs[:3]]
    paths.insert(1, tmp_path / "broken.jpg")
    detector = small_detector.change()
    wanted = list(detector.detect_paths(paths))
    detector.ahead = 2
    found = list(detector.detect_paths(paths))
    assert [path for path, _ in found] == paths
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        assert type(one) is type(other)
        if not isinstance(one, Exception):
            check_same(one, other)
