"""Maps kept on disk: the same values as computed ones, whatever happened to the files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from spp_detect.training.maps import MapStore
from torch import nn

from data import LabelledSet, Labels, Photograph
from spp_detect.backbones import Backbone, InputFormat
from spp_detect.config import make_config
from spp_detect.features import FeatureExtractor

SIZES = ((60, 40), (35, 50), (48, 48))
PLENTY = 10**9


def build_extractor(gain=1.0):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5, stride=16, padding=2)
    conv.weight.data *= gain
    backbone = Backbone(
        "tiny", nn.Sequential(conv), 4, InputFormat("rgb", (100.0,) * 3, (60.0,) * 3)
    )
    return FeatureExtractor(backbone, make_config(scales=(40, 64)), torch.device("cpu"))


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


class CountingExtractor:
    """Counts the photographs whose maps are computed."""

    def __init__(self, extractor):
        self.extractor, self.computed = extractor, 0

    def __getattr__(self, name):
        return getattr(self.extractor, name)

    def compute_maps(self, photo):
        self.computed += 1
        return self.extractor.compute_maps(photo)


def open_store(folder, dataset, budget=PLENTY, gain=1.0):
    return MapStore(folder, dataset, CountingExtractor(build_extractor(gain)), budget, 10_000)


def compute_directly(dataset, index):
    photo = np.asarray(Image.open(dataset.photographs[index].path))
    maps = build_extractor().compute_maps(photo)
    return maps.sides, [m.half() for m in maps.maps]


def assert_right(maps, dataset, index):
    sides, halves = compute_directly(dataset, index)
    assert maps.size == SIZES[index]
    assert maps.sides == sides
    assert all(m.dtype == torch.float16 and m.device.type == "cpu" for m in maps.maps)
    assert len(maps.maps) == len(halves) == 2
    assert all(torch.equal(a, b) for a, b in zip(maps.maps, halves, strict=True))


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_from_disk_equals_computed(folder, dataset):
    store = open_store(folder, dataset)
    for i in range(3):
        assert_right(store.get(i), dataset, i)
    assert store.extractor.computed == 3
    for i in (2, 0, 1, 1):
        assert_right(store.get(i), dataset, i)
    assert store.extractor.computed == 3
    assert names(folder) == [f"00000{i}-{scale}.npy" for i in range(3) for scale in (40, 64)]


def test_mirrored_maps_are_those_of_the_mirrored_photograph(folder, dataset):
    store = open_store(folder, dataset)
    photo = np.asarray(Image.open(dataset.photographs[1].path))
    expected = build_extractor().compute_maps(photo[:, ::-1].copy())
    mirrored = store.compute(1, mirrored=True)
    assert all(torch.equal(a, b.half()) for a, b in zip(mirrored.maps, expected.maps, strict=True))
    assert_right(store.compute(1), dataset, 1)
    store.get(1, mirrored=True, keep=False)
    assert names(folder) == []
    store.get(1, mirrored=True)
    assert len(names(folder)) == 2
    before = store.extractor.computed
    again = store.get(1, mirrored=True, keep=False)
    assert store.extractor.computed == before  # what was written is read
    assert all(torch.equal(a, b) for a, b in zip(again.maps, mirrored.maps, strict=True))


def test_maps_of_a_former_run_are_used(folder, dataset):
    open_store(folder, dataset).get(1)
    store = open_store(folder, dataset)
    assert store.used > 0
    assert_right(store.get(1), dataset, 1)
    assert store.extractor.computed == 0


def test_no_budget_same_values_and_no_files(folder, dataset):
    store = open_store(folder, dataset, budget=0)
    for i in (0, 1, 0):
        assert_right(store.get(i), dataset, i)
    assert store.extractor.computed == 3
    assert names(folder) == []


def test_the_budget_holds_what_fits(folder, dataset):
    # At 40 and 64 a square photograph has 3 × 3 and 4 × 4 cells of 4 channels.
    store = open_store(folder, dataset, budget=2 * 4 * (9 + 16))
    for _ in range(2):
        for i in (2, 0, 1):
            assert_right(store.get(i), dataset, i)
    assert names(folder) == ["000002-40.npy", "000002-64.npy"]
    assert store.extractor.computed == 1 + 2 * 2
    # Later runs count what lies there.
    store = open_store(folder, dataset, budget=2 * 4 * (9 + 16))
    store.get(0)
    assert len(names(folder)) == 2


DAMAGES = {
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[:-5],
    "header cut": lambda raw: raw[:40],
    "magic": lambda raw: b"XX" + raw[2:],
    "header": lambda raw: raw[:20] + b"((((" + raw[24:],
    "text": lambda raw: b"no map at all\n",
    "zip": lambda raw: b"PK\x03\x04" + raw,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("scale", [40, 64])
def test_a_damaged_file_is_computed_anew(folder, dataset, damage, scale):
    open_store(folder, dataset).get(0)
    path = folder / f"000000-{scale}.npy"
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    store = open_store(folder, dataset)
    assert_right(store.get(0), dataset, 0)
    assert store.extractor.computed == 1
    assert path.read_bytes() == whole
    assert_right(store.get(0), dataset, 0)
    assert store.extractor.computed == 1


def test_a_damaged_file_is_counted_once(folder, dataset):
    open_store(folder, dataset).get(0)
    (folder / "000000-40.npy").write_bytes(b"")
    store = open_store(folder, dataset)
    store.get(0)
    on_disk = sum(path.stat().st_size for path in folder.iterdir())
    assert store.used <= on_disk


def test_pickled_arrays_are_not_read(folder, dataset):
    folder.mkdir(parents=True)
    np.save(folder / "000000-40.npy", np.array([{"a": 1}], object), allow_pickle=True)
    store = open_store(folder, dataset)
    assert_right(store.get(0), dataset, 0)
    assert store.extractor.computed == 1


def test_leftovers_of_an_interrupted_run_are_ignored(folder, dataset):
    folder.mkdir(parents=True)
    (folder / ".000000-40-k3jd.npy").write_bytes(b"x" * 5000)
    store = open_store(folder, dataset)
    assert store.used == 0
    assert_right(store.get(0), dataset, 0)
    # One of two scales written: both are computed.
    (folder / "000000-64.npy").unlink()
    store = open_store(folder, dataset)
    assert_right(store.get(0), dataset, 0)
    assert store.extractor.computed == 1


def test_values_past_half_precision_stay_finite(folder, dataset):
    store = open_store(folder, dataset, gain=1e6)
    assert (
        max(
            m.abs().max()
            for m in store.extractor.compute_maps(np.zeros((40, 60, 3), np.uint8)).maps
        )
        > 65504
    )
    for _ in range(2):
        maps = store.get(0)
        assert all(torch.isfinite(m).all() for m in maps.maps)
        assert max(m.abs().max() for m in maps.maps) == 65504


def test_a_full_disk_is_an_error_and_leaves_nothing(folder, dataset, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*000000-40\.npy"):
        open_store(folder, dataset).get(0)
    assert names(folder) == []
