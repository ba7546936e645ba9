"""R-CNN's features kept on disk: the same values as computed ones, whatever became of the files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from spp_detect.training.crops import CropStore
from torch import nn

from data import LabelledSet, Labels, Photograph
from spp_detect.backbones import Backbone, InputFormat
from spp_detect.config import make_config
from spp_detect.features import HALF_MAX
from spp_detect.rcnn import CropFeatures, RcnnExtractor, WarpSource

SIZES = ((60, 40), (35, 50))
PLENTY = 10**9
LENGTH = 4 * 5
WINDOWS = np.array(
    [[0, 0, 30, 30], [5, 5, 20, 35], [0, 0, 30, 30], [2.5, 1, 33, 40]]
    + [[i, 2 * i, i + 20, 2 * i + 20] for i in range(9)],
    np.float32,
)


def build_extractor(gain=1.0):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5, stride=16, padding=2)
    conv.weight.data *= gain
    layers = nn.Sequential(conv, nn.ReLU())
    backbone = Backbone("tiny", layers, 4, InputFormat("rgb", (100.0,) * 3, (60.0,) * 3))
    return RcnnExtractor(backbone, make_config(levels=(2, 1)), torch.device("cpu"))


@pytest.fixture
def dataset(tmp_path):
    rng = np.random.default_rng(0)
    photographs = []
    none = Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    for i, (width, height) in enumerate(SIZES):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
        photographs.append(Photograph(str(i), path, width, height, none))
    return LabelledSet(tmp_path, "train", ("thing",), tuple(photographs))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "work" / "maps"


def open_store(folder, dataset, budget=PLENTY, gain=1.0, windows=WINDOWS):
    extractor = build_extractor(gain)
    return CropStore(folder, dataset, extractor, budget, 10_000, lambda _: windows)


def pool_directly(dataset, index, windows):
    extractor = build_extractor()
    photo = np.asarray(Image.open(dataset.photographs[index].path))
    pooled = extractor.pool(extractor.compute_maps(photo), windows)
    return pooled.features.half()


def test_from_disk_equals_computed_for_any_of_the_windows(folder, dataset):
    store = open_store(folder, dataset)
    for _ in range(2):
        for i in range(2):
            source = store.get(i)
            assert isinstance(source, CropFeatures)
            assert source.size == SIZES[i]
            assert source.features.dtype == torch.float16
            for rows in ([3], [2, 0, 1], [*range(len(WINDOWS))], []):
                pooled = store.extractor.pool(source, WINDOWS[rows])
                assert pooled.features.dtype == torch.float16
                wanted = pool_directly(dataset, i, WINDOWS[rows])
                torch.testing.assert_close(pooled.features, wanted, atol=0.002, rtol=0.002)
        store.compute = None  # the second time all is read
    assert sorted(path.name for path in folder.iterdir()) == ["000000.npy", "000001.npy"]
    assert np.load(folder / "000000.npy").shape == (len(WINDOWS) - 1, LENGTH)


def test_past_the_budget_values_are_the_same_to_the_bit(folder, dataset):
    kept, anew = open_store(folder, dataset), open_store(folder / "none", dataset, budget=0)
    for rows in ([3], [4, 1], [*range(len(WINDOWS))], []):
        sources = [store.get(1) for store in (kept, anew)]
        assert [type(source) for source in sources] == [CropFeatures, WarpSource]
        ours, theirs = (kept.extractor.pool(source, WINDOWS[rows]) for source in sources)
        assert torch.equal(ours.features, theirs.features)
        assert (ours.inverse == theirs.inverse).all()
    assert anew.full
    assert not kept.full
    assert not (folder / "none").exists()


def test_the_budget_holds_what_fits(folder, dataset):
    budget = 2 * LENGTH * (len(WINDOWS) - 1)
    store = open_store(folder, dataset, budget)
    store.get(1)
    assert not store.full
    store.get(0)
    assert store.full
    assert [path.name for path in folder.iterdir()] == ["000001.npy"]
    assert open_store(folder, dataset, budget).used > 0


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-5], lambda b: b"XX" + b[2:]])
def test_a_damaged_file_is_computed_anew(folder, dataset, damage):
    open_store(folder, dataset).get(0)
    path = folder / "000000.npy"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    store = open_store(folder, dataset)
    assert len(store.get(0).features) == len(WINDOWS) - 1
    assert path.read_bytes() == whole
    assert store.used == len(whole)


def test_features_of_other_windows_are_not_taken(folder, dataset):
    open_store(folder, dataset, windows=WINDOWS[:2]).get(0)
    store = open_store(folder, dataset)
    assert len(store.get(0).features) == len(WINDOWS) - 1


def test_a_window_that_is_not_there_is_an_error(folder, dataset):
    store = open_store(folder, dataset)
    with pytest.raises(KeyError):
        store.extractor.pool(store.get(0), WINDOWS + np.float32(1))


def test_minus_zero_is_zero(folder, dataset):
    store = open_store(folder, dataset)
    negative = np.where(WINDOWS == 0, np.float32(-0.0), WINDOWS)
    pooled = [store.extractor.pool(store.get(0), windows) for windows in (WINDOWS, negative)]
    assert torch.equal(pooled[0].features, pooled[1].features)


def test_mirrored_crops_are_those_of_the_mirrored_photograph(folder, dataset):
    store = open_store(folder, dataset)
    photo = np.asarray(Image.open(dataset.photographs[0].path))[:, ::-1].copy()
    wanted = store.extractor.pool(store.extractor.compute_maps(photo), WINDOWS)
    source = store.compute(0, mirrored=True)
    assert torch.equal(store.extractor.pool(source, WINDOWS).features, wanted.features)
    assert torch.equal(store.get(0, mirrored=True).pixels, source.pixels)
    assert not folder.exists()


def test_a_photograph_without_windows(folder, dataset):
    none = np.zeros((0, 4), np.float32)
    for budget in (PLENTY, -1):
        store = open_store(folder, dataset, budget, windows=none)
        assert store.extractor.pool(store.get(0), none).features.shape == (0, LENGTH)


def test_values_past_half_precision_stay_finite(folder, dataset):
    for budget in (PLENTY, 0):
        store = open_store(folder, dataset, budget, gain=1e6)
        assert store.extractor.pool(store.get(0), WINDOWS).features.max() == HALF_MAX
