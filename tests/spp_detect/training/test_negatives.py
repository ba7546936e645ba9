"""Mined negatives' features on disk: read as they were added, whatever happened in between."""

import errno

import numpy as np
import pytest

from data import open_dataset
from spp_detect.spp import SppExtractor
from spp_detect.training import negatives, svms
from spp_detect.training.feature_cache import Resources
from spp_detect.training.negatives import NegativesFile
from spp_detect.training.svms import TrainSvms
from spp_detect.training.windows import make_keys
from svm import LinearSvm

LENGTH = 5


@pytest.fixture
def filled(tmp_path):
    """A file of three photographs, and what was added to it."""
    random = np.random.default_rng(0)
    file, added = NegativesFile(tmp_path, LENGTH), {}
    for index, rows in ((7, [2, 3, 9]), (0, [0]), (3, [1, 4, 5, 6])):
        rows = np.array(rows)
        features = random.normal(size=(len(rows), LENGTH)).astype(np.float16)
        file.add(index, rows, features)
        added[index] = rows, features
    return file, added


def check(file, added):
    for index, (rows, features) in added.items():
        assert index in file
        np.testing.assert_array_equal(file.read(index, rows), features)
        np.testing.assert_array_equal(file.read(index, rows[-1:]), features[-1:])
    assert len(file.keys) == sum(len(rows) for rows, _ in added.values())


def test_what_was_added_is_read(filled):
    file, added = filled
    check(file, added)
    assert 5 not in file
    file.add(5, np.zeros(0, np.int64), np.zeros((0, LENGTH), np.float16))
    assert 5 not in file  # nothing of it to read
    assert file.path.stat().st_size == 8 * 2 * LENGTH


def test_an_interrupted_run_goes_on_from_its_state(filled, tmp_path):
    file, added = filled
    keys, generation = file.keys, file.generation
    file.add(9, np.array([1, 2]), np.ones((2, LENGTH), np.float16))  # after the last state
    again = NegativesFile(tmp_path, LENGTH)
    again.restore(keys, generation)
    check(again, added)
    assert 9 not in again
    other = np.array([4]), np.full((1, LENGTH), 3, np.float16)
    again.add(8, *other)
    check(again, added | {8: other})


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"12")])
def test_without_the_file_there_is_nothing(filled, tmp_path, damage):
    file, _ = filled
    damage(file.path)
    again = NegativesFile(tmp_path, LENGTH)
    again.restore(file.keys, file.generation)
    assert 7 not in again and len(again.keys) == 0


def test_what_no_class_holds_is_dropped(filled, tmp_path, monkeypatch):
    file, added = filled
    held = np.concatenate([make_keys(3, np.array([4])), make_keys(7, np.array([2, 9]))])
    old = file.path
    file.compact(held)
    check(file, added)  # too few to be worth it
    monkeypatch.setattr(negatives, "COMPACTING_FROM", 8)
    file.compact(np.concatenate([held, make_keys(3, np.array([1, 5]))]))
    assert file.path == old  # more than half are held
    file.compact(held)
    kept = {3: [1], 7: [0, 2]}
    check(file, {i: (added[i][0][k], added[i][1][k]) for i, k in kept.items()})
    assert 0 not in file
    before = NegativesFile(tmp_path, LENGTH)  # of a run stopped before its state was saved
    before.restore(make_keys(7, np.array([2, 3, 9])), 0)
    np.testing.assert_array_equal(before.read(7, added[7][0]), added[7][1])
    file.remove_old()
    assert [*tmp_path.iterdir()] == [file.path] != [old]
    file.remove()
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_names_the_file(filled, monkeypatch):
    file, _ = filled

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "ascontiguousarray", fail)
    with pytest.raises(OSError) as error:
        file.add(1, np.array([0]), np.zeros((1, LENGTH), np.float16))
    assert error.value.filename == str(file.path)


class KilledError(Exception):
    """Stands for whatever ends a run."""


def train_svms(make_run, folder, dataset, config, budget, monkeypatch, scale=0.1, memory=None):
    """Train SVMs: weights, intercepts, and how often maps of a photograph were computed."""
    count = 0
    compute = SppExtractor.compute_maps

    def counting(*arguments, **named):
        nonlocal count
        count += 1
        return compute(*arguments, **named)

    run = make_run(folder, dataset, config)
    run.resources = Resources(run.resources.device, budget)
    run.begin()
    cache = run.open_cache(run.propose())
    stage = TrainSvms(run.work, dataset, run.order, cache, None, config, scale, memory=memory)
    with monkeypatch.context() as patch:
        patch.setattr(SppExtractor, "compute_maps", counting)
        stage.run()
    return *stage.load(), count


def test_without_kept_maps_they_are_computed_once_to_mine(
    make_run, small_voc, small_config, tmp_path, monkeypatch
):
    dataset = open_dataset(small_voc, "train")
    config = small_config(retrain_after=100, mirror_positives=False)
    kept = train_svms(make_run, tmp_path / "kept", dataset, config, 10**9, monkeypatch)
    anew = train_svms(make_run, tmp_path / "anew", dataset, config, 0, monkeypatch)
    for ours, theirs in zip(anew[:2], kept[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert kept[2] == len(dataset)
    assert anew[2] == 2 * len(dataset)  # for its positives, and to be mined
    assert not [*(tmp_path / "anew" / "work").glob("negatives*")]


def test_stopped_while_it_mines_it_goes_on_to_the_same_svms(
    make_run, small_voc, small_config, tmp_path, monkeypatch
):
    dataset = open_dataset(small_voc, "train")
    monkeypatch.setattr(svms, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(negatives, "COMPACTING_FROM", 100)  # often, while it mines
    parts = dataset, small_config(retrain_after=100), 0, monkeypatch
    whole = train_svms(make_run, tmp_path / "whole", *parts)
    for stop in (6, 5):
        mined = iter(range(stop))
        mine = TrainSvms._mine_photograph

        def mine_or_die(self, *arguments, mined=mined, mine=mine):
            if next(mined, None) is None:
                raise KilledError
            mine(self, *arguments)

        with monkeypatch.context() as patch, pytest.raises(KilledError):
            patch.setattr(TrainSvms, "_mine_photograph", mine_or_die)
            train_svms(make_run, tmp_path / "stopped", *parts)
    assert [*(tmp_path / "stopped" / "work").glob("negatives*")]
    again = train_svms(make_run, tmp_path / "stopped", *parts)
    for ours, theirs in zip(again[:2], whole[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert 0 < again[2] < len(dataset)  # neither its positives nor what was mined before


def test_with_little_memory_the_svms_are_nearly_the_same(
    make_run, small_voc, small_config, tmp_path, monkeypatch
):
    """Most classes' examples do not fit then, and are solved in blocks."""
    sizes = []
    fit = LinearSvm.fit_in_blocks

    def watched(self, read, labels, most):
        sizes.append((len(labels), most))
        return fit(self, read, labels, most)

    monkeypatch.setattr(LinearSvm, "fit_in_blocks", watched)
    dataset = open_dataset(small_voc, "train")
    config = small_config(retrain_after=400, svm_tolerance=1e-3)
    run = make_run(tmp_path / "scale", dataset, config)
    cache = run.open_cache(run.propose())
    norm = cache.pool(0, cache.table.find_rows(0)).features.float().norm(dim=1).mean().item()
    parts = dataset, config, 10**9, monkeypatch, 20 / norm
    whole = train_svms(make_run, tmp_path / "whole", *parts)
    assert not sizes
    little = train_svms(make_run, tmp_path / "little", *parts, memory=15_000_000)
    assert sizes and all(count > most for count, most in sizes)
    assert not list((tmp_path / "little" / "work").glob("tmp*"))
    for ours, theirs in zip(little[0], whole[0], strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.999
    np.testing.assert_allclose(little[1], whole[1], atol=0.03)
