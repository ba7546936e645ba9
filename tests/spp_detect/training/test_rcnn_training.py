"""R-CNN trained and run by SPP-net's code: repeatable, resumable, the same whatever is cached."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from data import read_photo
from spp_detect import cli, rcnn
from spp_detect.backbones import build_backbone
from spp_detect.detector import Detector
from spp_detect.experiments.speed import RCNN, BenchmarkSettings, make_contenders, run_benchmark
from spp_detect.rcnn import RcnnExtractor, WarpSource
from spp_detect.spp import SppExtractor
from spp_detect.training import feature_cache
from spp_detect.training.feature_cache import CropCache, Resources
from spp_detect.training.finetuning import FineTuner
from spp_detect.training.run import TrainingRun
from spp_detect.training.windows import WindowTable

TUNED = {"finetune_iterations": 6, "fc_width": 16, "feature": "fc7"}


@pytest.fixture(scope="module", autouse=True)
def small_passes():
    """Many small passes: where other work is going on, torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rcnn.BATCHES, "cpu", 2)  # past the budget few windows are asked for at once
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rcnn_config(small_config):
    def make(**changes):
        return small_config(extractor="rcnn", max_windows=12, norm_windows=5, **changes)

    return make


@pytest.fixture(scope="module")
def rcnn_model(tmp_path_factory, small_set, make_run, rcnn_config):
    """A finished R-CNN; tests must not change it."""
    folder = tmp_path_factory.mktemp("rcnn") / "run"
    make_run(folder, small_set, rcnn_config()).train()
    return folder


@pytest.fixture
def begin_run(tmp_path, rcnn_model, small_set, rcnn_config):
    """Makes a run in a folder of its own whose windows are proposed already."""

    def begin(name="run", budget=10**9, **changes):
        folder = tmp_path / name
        proposals = rcnn_model / "work" / "proposals"
        shutil.copytree(proposals, folder / "work" / "proposals", dirs_exist_ok=True)
        torch.manual_seed(0)
        resources = Resources(torch.device("cpu"), budget)
        config = rcnn_config(**changes)
        return TrainingRun(folder, small_set, config, build_backbone("small5"), resources)

    return begin


@pytest.fixture
def spp(capsys, monkeypatch):
    """Runs the command line in this process: exit status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["spp-detect", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


class KilledError(Exception):
    """Stands for whatever ends a run."""


def model_of(folder):
    return (folder / "model.safetensors").read_bytes()


def kill_at(monkeypatch, owner, method, calls):
    """Let a method or function work so many times, then end the run."""
    original = getattr(owner, method)
    left = iter(range(calls))

    def work(*arguments, **options):
        if next(left, None) is None:
            raise KilledError
        return original(*arguments, **options)

    monkeypatch.setattr(owner, method, work)


def test_two_runs_are_equal_bit_for_bit(begin_run, rcnn_model):
    run = begin_run()
    run.train()
    for name in ("model.safetensors", "config.json"):
        assert (run.folder / name).read_bytes() == (rcnn_model / name).read_bytes()


def test_without_a_budget_the_model_is_the_same(begin_run, rcnn_model, monkeypatch):
    monkeypatch.setattr(feature_cache, "write_array", lambda *_: pytest.fail("kept on disk"))
    run = begin_run(budget=0)
    run.train()
    assert model_of(run.folder) == model_of(rcnn_model)


def test_windows_are_computed_once(begin_run, monkeypatch):
    run = begin_run(mirror_positives=False)
    counted = []
    compute = WarpSource.compute

    def count(self, windows, *watch):
        counted.append(len(windows))
        return compute(self, windows, *watch)

    monkeypatch.setattr(WarpSource, "compute", count)
    run.train()
    table = run.propose()
    assert counted == [len(np.unique(table.find(i), axis=0)) for i in range(len(run.dataset))]


def test_a_run_goes_on_from_a_cache_half_filled_and_damaged(begin_run, rcnn_model, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_at(patch, feature_cache, "write_array", 7)
        begin_run().train()
    run = begin_run()
    kept = sorted((run.work / "maps").glob("*.npy"))
    assert len(kept) == 7
    kept[2].write_bytes(kept[2].read_bytes()[:-9])
    kept[3].write_bytes(b"")
    run.train()
    assert model_of(run.folder) == model_of(rcnn_model)
    assert not any(run.folder.rglob(".*-*"))


def test_features_of_other_windows_are_not_taken_by_a_run(begin_run, monkeypatch):
    """Left by a run that began with others, as many: where they differ all is computed anew."""
    run = begin_run()
    table = run.propose()
    run.open_cache(table).fill()
    proposed = [table.find(i)[table.find_proposals(i)].copy() for i in range(len(table))]
    proposed[2][-1] += np.array([0, 0, 3, 5], np.float32)
    other = WindowTable(run.dataset, proposed)
    opened = []
    compute_maps = RcnnExtractor.compute_maps

    def count(self, photo, *watch):
        opened.append(photo)
        return compute_maps(self, photo, *watch)

    monkeypatch.setattr(RcnnExtractor, "compute_maps", count)
    caches = run.open_cache(table), run.open_cache(other)
    for i in range(len(table)):
        one, two = (
            cache.pool_at(i, cache.table.find_rows(i), 0, mirrored=False) for cache in caches
        )
        differs = (one != two).any(dim=1).nonzero().flatten().tolist()
        assert differs == ([len(one) - 1] if i == 2 else [])
    assert len(opened) == 1


def test_the_trained_model_detects_as_the_saved_one(begin_run, small_set):
    run = begin_run()
    trained = run.train()
    loaded = Detector.load(run.folder, "cpu")
    assert isinstance(loaded.extractor, RcnnExtractor)
    photo = read_photo(small_set.photographs[0].path)
    windows = small_set.photographs[0].labels.boxes + np.float32(1)
    ours, theirs = trained.detect(photo, windows), loaded.detect(photo, windows)
    assert len(ours.boxes)
    assert ours == theirs


def test_a_model_of_before_there_was_a_choice_is_spp_nets(small_model, tmp_path):
    folder = shutil.copytree(small_model, tmp_path / "old")
    description = json.loads((folder / "config.json").read_text())
    assert description["config"].pop("extractor") == "spp"
    description["config"] |= description.pop("training")
    description["version"] = 1
    (folder / "config.json").write_text(json.dumps(description))
    assert isinstance(Detector.load(folder, "cpu").extractor, SppExtractor)


def test_fine_tuning_takes_what_is_kept_and_mirrors_nothing(begin_run, monkeypatch):
    run = begin_run(**TUNED)
    table = run.propose()
    tuner = run.make_tuner(table, run.open_cache(table))
    assert type(tuner.trunk.cache) is CropCache
    draws = [draw for step in range(4) for draw in tuner.sampler.draw_batch(step)]
    assert not any(draw.mirrored for draw in draws)
    tuner.trunk.cache.fill(mirrored=tuner.sampler.mirrors)
    with monkeypatch.context() as patch:
        patch.setattr(WarpSource, "compute", lambda *_: pytest.fail("computed again"))
        batch = tuner.read(draws[:3])
    for draw, pool in batch:
        photo = read_photo(run.dataset.photographs[draw.photograph].path)
        anew = run.extractor.compute_maps(photo).pool(table.find(draw.photograph)[draw.rows])
        wanted = anew.features[anew.inverse].float()
        torch.testing.assert_close(pool(), wanted, atol=1e-3, rtol=1e-3)


def test_fine_tuned_it_is_the_same_without_a_budget_and_after_a_stop(begin_run, monkeypatch):
    whole = begin_run("whole", **TUNED)
    trunk = {name: one.clone() for name, one in whole.extractor.backbone.state_dict().items()}
    whole.train()
    after = whole.extractor.backbone.state_dict()
    assert all(torch.equal(one, after[name]) for name, one in trunk.items())
    anew = begin_run("anew", budget=0, **TUNED)
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "write_array", lambda *_: pytest.fail("kept on disk"))
        anew.train()
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_at(patch, FineTuner, "learn", 4)
        begin_run("stopped", **TUNED).train()
    stopped = begin_run("stopped", **TUNED)
    stopped.train()
    models = [model_of(run.folder) for run in (whole, anew, stopped)]
    assert models[0] == models[1] == models[2]


def test_the_benchmark_says_what_heads_were_trained_with(rcnn_model, small_detector, small_set):
    """A trained R-CNN stands beside an SPP-net whose trunk is the same."""
    trained = Detector.load(rcnn_model, "cpu")
    settings = BenchmarkSettings(scales=(96, 160), windows=5)
    contenders = make_contenders(small_detector, trained, settings)
    assert torch.equal(contenders[RCNN].heads.svm_coef, trained.heads.svm_coef)
    paths = [small_set.photographs[0].path]
    result = run_benchmark(small_detector, paths, settings, trained)
    ways = [one["heads_trained_with"] for one in result["contenders"].values()]
    assert ways == ["spp", "spp", "rcnn"]
    result = run_benchmark(small_detector, paths, settings)
    assert result["contenders"][RCNN]["heads_trained_with"] == "spp"


def test_the_command_line_trains_goes_on_and_evaluates(spp, small_voc, tmp_path, monkeypatch):
    model, out = tmp_path / "run", tmp_path / "evaluation"
    options = ("--backbone", "small5", "--weights", "none", "--device", "cpu")
    asked = ("--extractor", "rcnn", "--max-windows", 8)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_at(patch, feature_cache, "write_array", 3)
        spp("train", small_voc, "--out", model, *options, *asked)
    assert len(list((model / "work" / "maps").glob("*.npy"))) == 3
    status, _, errors = spp("train", small_voc, "--out", model, "--resume", "--extractor", "spp")
    assert status == 2
    assert "extractor rcnn, now it is spp" in errors.splitlines()[-1]
    assert spp("train", small_voc, "--out", model, "--resume")[0] == 0
    config = json.loads((model / "config.json").read_text())["config"]
    assert (config["extractor"], config["max_windows"]) == ("rcnn", 8)
    assert not (model / "work" / "maps").exists()
    assert spp("evaluate", model, small_voc, "--out", out)[0] == 0
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["models"][0]["extractor"] == "rcnn"
    assert 0 <= numbers["mAP"] <= 1


def test_what_cannot_be_is_one_line(spp, small_voc, tmp_path):
    options = ("--out", tmp_path / "run", "--backbone", "small5", "--weights", "none")
    tuned = ("--finetune", 5, "--train-from", "conv5")
    status, _, errors = spp("train", small_voc, *options, "--extractor", "rcnn", *tuned)
    assert status == 2
    assert errors.splitlines()[-1].startswith("spp-detect: error: train_from 'conv5': expected")
    assert spp("train", small_voc, *options, "--extractor", "fast")[0] == 2
    assert spp("train", small_voc, *options, "--max-windows", 0)[0] == 2
    status, _, errors = spp("train", small_voc, *options, "--max-windows", 10**13)
    assert status == 2
    assert "max_windows" in errors.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_a_configuration_with_both_is_refused(small_config):
    with pytest.raises(ValueError, match="extractor 'warp': expected one of spp, rcnn"):
        small_config(extractor="warp")
    with pytest.raises(ValueError, match="train_from 'conv5': expected none"):
        small_config(train_from="conv5", finetune_iterations=4, extractor="rcnn")
