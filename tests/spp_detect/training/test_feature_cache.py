"""Maps and crops' features kept on disk: the values are the same, whatever became of the files."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from data import DataError, LabelledSet, Labels, Photograph
from data import read_photo as read_photo_of_file
from spp_detect.backbones import Backbone, InputFormat
from spp_detect.config import make_config
from spp_detect.features import HALF_MAX
from spp_detect.mirror import mirror_boxes
from spp_detect.rcnn import RcnnExtractor
from spp_detect.spp import SppExtractor
from spp_detect.training import feature_cache
from spp_detect.training.feature_cache import CropCache, MapCache, Resources, open_cache
from spp_detect.training.windows import WindowTable

SIZES = ((60, 40), (35, 50), (48, 48))
PLENTY = 10**9
LENGTH = 4 * 5  # of a crop's feature
WINDOWS = np.array(
    [[0, 0, 30, 30], [5, 5, 20, 35], [0, 0, 30, 30], [2.5, 1, 33, 40]]
    + [[i, 2 * i, i + 20, 2 * i + 20] for i in range(9)],
    np.float32,
)
DISTINCT = len(WINDOWS) - 1
SOME_ROWS = ([3], [2, 0, 1], [4, 1], [*range(len(WINDOWS))], [])
DEVICE = torch.device("cpu")


class CountingSpp(SppExtractor):
    """Counts the photographs whose maps are computed."""

    computed = 0

    def compute_maps(self, photo, *watch):
        self.computed += 1
        return super().compute_maps(photo, *watch)


class CountingRcnn(RcnnExtractor):
    """Counts the photographs that are opened."""

    computed = 0

    def compute_maps(self, photo, *watch):
        self.computed += 1
        return super().compute_maps(photo, *watch)


def build_trunk(gain, *more):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 5, stride=16, padding=2)
    conv.weight.data *= gain
    layers = nn.Sequential(conv, *more)
    return Backbone("tiny", layers, 4, InputFormat("rgb", (100.0,) * 3, (60.0,) * 3))


def build_spp(gain=1.0):
    return CountingSpp(build_trunk(gain), make_config(scales=(40, 64)), DEVICE)


def build_rcnn(gain=1.0):
    config = make_config(extractor="rcnn", levels=(2, 1))
    return CountingRcnn(build_trunk(gain, nn.ReLU()), config, DEVICE)


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


def open_any(kind, folder, dataset, extractor, budget, windows):
    table = WindowTable(dataset, [windows] * len(dataset))
    resources = Resources(DEVICE, budget, 10_000)
    cache = open_cache(folder, dataset, table, resources, extractor)
    assert type(cache) is kind
    return cache


def open_maps(folder, dataset, budget=PLENTY, gain=1.0, windows=WINDOWS):
    return open_any(MapCache, folder, dataset, build_spp(gain), budget, windows)


def open_crops(folder, dataset, budget=PLENTY, gain=1.0, windows=WINDOWS):
    return open_any(CropCache, folder, dataset, build_rcnn(gain), budget, windows)


def read_photo(dataset, index):
    return np.array(Image.open(dataset.photographs[index].path))


def rows_of(numbers):
    return np.array(numbers, np.int64)


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def name_crops(cache, index):
    return f"{index:06d}-{cache.table.hash_photograph(index)[:16]}.npy"


# SPP-net's maps.


def compute_directly(dataset, index):
    maps = build_spp().compute_maps(read_photo(dataset, index))
    return maps.sides, [m.half() for m in maps.maps[""]]


def assert_right(maps, dataset, index):
    sides, halves = compute_directly(dataset, index)
    assert maps.size == SIZES[index]
    assert maps.sides == sides
    assert list(maps.maps) == [""]
    assert all(m.dtype == torch.float16 and m.device.type == "cpu" for m in maps.maps[""])
    assert len(maps.maps[""]) == len(halves) == 2
    assert all(torch.equal(a, b) for a, b in zip(maps.maps[""], halves, strict=True))


def test_from_disk_equals_computed(folder, dataset):
    cache = open_maps(folder, dataset)
    for i in range(3):
        assert_right(cache.get(i), dataset, i)
    assert cache.extractor.computed == 3
    for i in (2, 0, 1, 1):
        assert_right(cache.get(i), dataset, i)
    assert cache.extractor.computed == 3
    assert names(folder) == [f"00000{i}-{scale}.npy" for i in range(3) for scale in (40, 64)]


@pytest.mark.parametrize("mirrored", [False, True])
def test_windows_are_pooled_from_the_maps_by_their_rows(folder, dataset, mirrored):
    cache = open_maps(folder, dataset)
    for i, (width, _) in enumerate(SIZES):
        photo = read_photo(dataset, i)
        windows = mirror_boxes(WINDOWS, width) if mirrored else WINDOWS
        photo = photo[:, ::-1].copy() if mirrored else photo
        for rows in SOME_ROWS:
            pooled = cache.pool(i, rows_of(rows), mirrored=mirrored)
            wanted = build_spp().compute_maps(photo).pool(windows[rows])
            assert torch.equal(pooled.features, wanted.features.half())
            assert (pooled.inverse == wanted.inverse).all()
            assert (pooled.windows == windows[rows]).all()
            assert pooled.size == SIZES[i]


@pytest.mark.parametrize("scale", [0, 1])
def test_pooled_at_one_scale_windows_are_those_of_its_map_alone(folder, dataset, scale):
    cache = open_maps(folder, dataset)
    config = make_config(scales=((40, 64)[scale],))
    alone = SppExtractor(build_trunk(1.0), config, DEVICE)
    rows = rows_of([2, 0, 5, 12])
    pooled = cache.pool_at(1, rows, scale, mirrored=False)
    wanted = alone.compute_maps(read_photo(dataset, 1)).pool(WINDOWS[rows])
    assert pooled.dtype == torch.float32
    assert torch.equal(pooled, wanted.features[wanted.inverse].half().float())


def test_mirrored_maps_are_those_of_the_mirrored_photograph(folder, dataset):
    cache = open_maps(folder, dataset)
    expected = build_spp().compute_maps(read_photo(dataset, 1)[:, ::-1].copy()).maps[""]
    mirrored = cache.compute(1, mirrored=True).maps[""]
    assert all(torch.equal(a, b.half()) for a, b in zip(mirrored, expected, strict=True))
    assert_right(cache.compute(1), dataset, 1)
    cache.get(1, mirrored=True, keep=False)
    cache.pool(1, rows_of([0]), mirrored=True, keep=False)
    assert names(folder) == []
    cache.get(1, mirrored=True)
    assert len(names(folder)) == 2
    before = cache.extractor.computed
    again = cache.get(1, mirrored=True, keep=False).maps[""]
    assert cache.extractor.computed == before  # what was written is read
    assert all(torch.equal(a, b) for a, b in zip(again, mirrored, strict=True))
    cache.remove_mirrored()
    assert names(folder) == []
    assert cache.used == 0


def test_filled_with_mirror_images_nothing_is_computed_again(folder, dataset):
    cache = open_maps(folder, dataset)
    cache.fill(mirrored=True)
    assert cache.extractor.computed == 2 * 3
    assert len(names(folder)) == 2 * 2 * 3
    for i in range(3):
        for mirrored in (False, True):
            cache.pool(i, rows_of([1]), mirrored=mirrored)
    assert cache.extractor.computed == 2 * 3


@pytest.fixture
def reads(monkeypatch):
    """The names of the photographs that the cache reads, each with the thread that read it."""
    seen = []

    def read(path, max_side):
        seen.append((path.stem, threading.get_ident()))
        return read_photo_of_file(path, max_side)

    monkeypatch.setattr(feature_cache, "read_photo", read)
    return seen


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("open_it", [open_maps, open_crops])
def test_filling_reads_ahead_what_is_missing_once(folder, dataset, reads, open_it, mirrored):
    open_it(folder, dataset).prepare(1)
    if mirrored:
        open_it(folder, dataset).prepare(1, mirrored=True)
    reads.clear()
    open_it(folder, dataset).fill(mirrored=mirrored)
    assert sorted(name for name, _ in reads) == ["0", "2"]
    assert threading.get_ident() not in {thread for _, thread in reads}
    filled = {path.name: path.read_bytes() for path in folder.iterdir()}
    # Again one by one, by whoever asks for them, of photographs that are read there and then.
    other = open_it(folder.with_name("others"), dataset)
    for i in range(3):
        for flip in (False, True)[: 1 + mirrored]:
            other.prepare(i, mirrored=flip)
    assert filled == {path.name: path.read_bytes() for path in other.folder.iterdir()}
    reads.clear()
    open_it(folder, dataset).fill(mirrored=mirrored)
    assert not reads


def test_a_full_cache_reads_no_more_than_was_begun(folder, dataset, reads):
    cache = open_maps(folder, dataset, budget=0)
    cache.fill()
    assert cache.extractor.computed == 1
    reads.clear()
    cache.fill()
    assert not reads


def test_nothing_read_ahead_is_taken_for_another_photograph(folder, dataset):
    cache = open_maps(folder, dataset, budget=0)
    cache.fill()
    for i in range(3):
        assert_right(cache.get(i), dataset, i)


def test_a_photograph_that_cannot_be_read_ends_the_filling(folder, dataset):
    dataset.photographs[1].path.write_bytes(b"no photograph")
    with pytest.raises(DataError, match=r"1\.png"):
        open_maps(folder, dataset).fill()
    assert names(folder) == ["000000-40.npy", "000000-64.npy"]


def test_maps_of_a_former_run_are_used(folder, dataset):
    open_maps(folder, dataset).get(1)
    cache = open_maps(folder, dataset)
    assert cache.used > 0
    assert_right(cache.get(1), dataset, 1)
    assert cache.extractor.computed == 0


def test_no_budget_same_values_and_no_files(folder, dataset):
    cache = open_maps(folder, dataset, budget=0)
    for i in (0, 1, 0):
        assert_right(cache.get(i), dataset, i)
    assert cache.extractor.computed == 3
    assert names(folder) == []


def test_the_budget_holds_what_fits(folder, dataset):
    # At 40 and 64 a square photograph has 3 × 3 and 4 × 4 cells of 4 channels.
    cache = open_maps(folder, dataset, budget=2 * 4 * (9 + 16))
    for _ in range(2):
        for i in (2, 0, 1):
            assert_right(cache.get(i), dataset, i)
    assert names(folder) == ["000002-40.npy", "000002-64.npy"]
    assert cache.extractor.computed == 1 + 2 * 2
    # Later runs count what lies there.
    cache = open_maps(folder, dataset, budget=2 * 4 * (9 + 16))
    cache.get(0)
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
    open_maps(folder, dataset).get(0)
    path = folder / f"000000-{scale}.npy"
    whole = path.read_bytes()
    path.write_bytes(DAMAGES[damage](whole))
    cache = open_maps(folder, dataset)
    assert_right(cache.get(0), dataset, 0)
    assert cache.extractor.computed == 1
    assert path.read_bytes() == whole
    assert_right(cache.get(0), dataset, 0)
    assert cache.extractor.computed == 1


def test_a_damaged_file_is_counted_once(folder, dataset):
    open_maps(folder, dataset).get(0)
    (folder / "000000-40.npy").write_bytes(b"")
    cache = open_maps(folder, dataset)
    cache.get(0)
    on_disk = sum(path.stat().st_size for path in folder.iterdir())
    assert cache.used <= on_disk


def test_pickled_arrays_are_not_read(folder, dataset):
    folder.mkdir(parents=True)
    np.save(folder / "000000-40.npy", np.array([{"a": 1}], object), allow_pickle=True)
    cache = open_maps(folder, dataset)
    assert_right(cache.get(0), dataset, 0)
    assert cache.extractor.computed == 1


def test_leftovers_of_an_interrupted_run_are_ignored(folder, dataset):
    folder.mkdir(parents=True)
    (folder / ".000000-40-k3jd.npy").write_bytes(b"x" * 5000)
    cache = open_maps(folder, dataset)
    assert cache.used == 0
    assert_right(cache.get(0), dataset, 0)
    # One of two scales written: both are computed.
    (folder / "000000-64.npy").unlink()
    cache = open_maps(folder, dataset)
    assert_right(cache.get(0), dataset, 0)
    assert cache.extractor.computed == 1


def test_values_past_half_precision_stay_finite(folder, dataset):
    cache = open_maps(folder, dataset, gain=1e6)
    black = cache.extractor.compute_maps(np.zeros((40, 60, 3), np.uint8))
    assert max(m.abs().max() for m in black.maps[""]) > 65504
    for _ in range(2):
        maps = cache.get(0).maps[""]
        assert all(torch.isfinite(m).all() for m in maps)
        assert max(m.abs().max() for m in maps) == 65504


def test_a_full_disk_is_an_error_and_leaves_nothing(folder, dataset, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match=r"No space left on device: .*000000-40\.npy"):
        open_maps(folder, dataset).get(0)
    assert names(folder) == []


# R-CNN's features.


def pool_directly(dataset, index, windows):
    return build_rcnn().compute_maps(read_photo(dataset, index)).pool(windows)


def test_crops_from_disk_equal_computed_ones_for_any_of_the_windows(folder, dataset):
    cache = open_crops(folder, dataset)
    for _ in range(2):
        for i in range(2):
            for rows in SOME_ROWS:
                pooled = cache.pool(i, rows_of(rows))
                wanted = pool_directly(dataset, i, WINDOWS[rows])
                assert pooled.size == SIZES[i]
                assert pooled.features.dtype == torch.float16
                assert (pooled.windows == WINDOWS[rows]).all()
                assert (pooled.first == wanted.first).all()
                assert (pooled.inverse == wanted.inverse).all()
                torch.testing.assert_close(
                    pooled.features, wanted.features.half(), atol=0.002, rtol=0.002
                )
        assert cache.extractor.computed == 2  # the second time all is read
    assert names(folder) == [name_crops(cache, i) for i in range(2)]
    assert np.load(folder / name_crops(cache, 0)).shape == (DISTINCT, LENGTH)


def test_crops_at_a_scale_are_the_same_at_each(folder, dataset):
    cache = open_crops(folder, dataset)
    rows = rows_of([2, 0, 1, 7])
    pooled = cache.pool(1, rows)
    for scale in (0, 3):
        at = cache.pool_at(1, rows, scale, mirrored=False)
        assert at.dtype == torch.float32
        assert torch.equal(at, pooled.features[pooled.inverse].float())


def test_crops_past_the_budget_are_the_same_to_the_bit(folder, dataset):
    kept, anew = open_crops(folder, dataset), open_crops(folder / "none", dataset, budget=0)
    for rows in SOME_ROWS:
        ours, theirs = (cache.pool(1, rows_of(rows)) for cache in (kept, anew))
        assert torch.equal(ours.features, theirs.features)
        assert (ours.inverse == theirs.inverse).all()
    assert (kept.extractor.computed, anew.extractor.computed) == (1, len(SOME_ROWS))
    assert anew.full
    assert not kept.full
    assert not (folder / "none").exists()


def test_crops_that_are_not_to_be_kept_are_not(folder, dataset):
    cache = open_crops(folder, dataset)
    anew = cache.pool(1, rows_of([3, 4]), keep=False)
    assert names(folder) == []
    kept = cache.pool(1, rows_of([3, 4]))
    assert len(names(folder)) == 1
    assert torch.equal(cache.pool(1, rows_of([3, 4]), keep=False).features, kept.features)
    assert torch.equal(anew.features, kept.features)
    assert cache.extractor.computed == 2


def test_the_budget_holds_the_crops_that_fit(folder, dataset):
    budget = 2 * LENGTH * DISTINCT
    cache = open_crops(folder, dataset, budget)
    cache.prepare(1)
    assert not cache.full
    cache.prepare(0)
    assert cache.full
    assert names(folder) == [name_crops(cache, 1)]
    assert open_crops(folder, dataset, budget).used > 0


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-5], lambda b: b"XX" + b[2:]])
def test_damaged_crops_are_computed_anew(folder, dataset, damage):
    open_crops(folder, dataset).prepare(0)
    path = folder / names(folder)[0]
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    cache = open_crops(folder, dataset)
    assert len(cache.pool(0, rows_of(range(len(WINDOWS)))).features) == DISTINCT
    assert cache.extractor.computed == 1
    assert path.read_bytes() == whole
    assert cache.used == len(whole)


def test_crops_of_fewer_windows_are_not_taken(folder, dataset):
    open_crops(folder, dataset, windows=WINDOWS[:2]).prepare(0)
    cache = open_crops(folder, dataset)
    assert len(cache.pool(0, rows_of(range(len(WINDOWS)))).features) == DISTINCT


@pytest.mark.parametrize("row", [1, 12])
def test_crops_of_other_windows_of_the_same_number_are_not_taken(folder, dataset, row):
    other = WINDOWS.copy()
    other[row] += (0, 0, 9, 4)
    all_rows = rows_of(range(len(WINDOWS)))
    former = open_crops(folder, dataset).pool(0, all_rows)
    cache = open_crops(folder, dataset, windows=other)
    pooled = cache.pool(0, all_rows)
    assert cache.extractor.computed == 1
    assert len(pooled.features) == len(former.features) == DISTINCT
    wanted = pool_directly(dataset, 0, other)
    torch.testing.assert_close(pooled.features, wanted.features.half(), atol=0.002, rtol=0.002)
    differs = (pooled.features[pooled.inverse] != former.features[former.inverse]).any(dim=1)
    assert differs.nonzero().flatten().tolist() == [row]


def test_a_row_that_is_not_there_is_an_error(folder, dataset):
    for cache in (open_crops(folder, dataset), open_maps(folder, dataset)):
        with pytest.raises(IndexError):
            cache.pool(0, rows_of([len(WINDOWS)]))


def test_minus_zero_is_zero(folder, dataset):
    negative = np.where(WINDOWS == 0, np.float32(-0.0), WINDOWS)
    cache = open_crops(folder, dataset, windows=np.concatenate([WINDOWS, negative]))
    rows = np.arange(len(WINDOWS))
    pooled = [cache.pool(0, rows), cache.pool(0, rows + len(WINDOWS))]
    assert torch.equal(pooled[0].features, pooled[1].features)
    assert len(cache.pool(0, np.arange(2 * len(WINDOWS))).features) == DISTINCT


def test_mirrored_crops_are_those_of_the_mirrored_photograph(folder, dataset):
    cache = open_crops(folder, dataset)
    photo = read_photo(dataset, 0)[:, ::-1].copy()
    windows = mirror_boxes(WINDOWS, SIZES[0][0])
    wanted = build_rcnn().compute_maps(photo).pool(windows)
    pooled = cache.pool(0, rows_of(range(len(WINDOWS))), mirrored=True)
    assert torch.equal(pooled.features, wanted.features)
    assert (pooled.windows == windows).all()
    cache.prepare(0, mirrored=True)
    assert not folder.exists()
    assert not cache.mirrors


def test_a_photograph_without_windows(folder, dataset):
    none = np.zeros((0, 4), np.float32)
    for budget in (PLENTY, -1):
        cache = open_crops(folder, dataset, budget, windows=none)
        assert cache.pool(0, rows_of([])).features.shape == (0, LENGTH)


def test_crops_values_past_half_precision_stay_finite(folder, dataset):
    for budget in (PLENTY, 0):
        cache = open_crops(folder, dataset, budget, gain=1e6)
        assert cache.pool(0, rows_of(range(len(WINDOWS)))).features.max() == HALF_MAX
