"""Runs whose windows have a second part, registered as anybody would: all of it trains with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data import read_photo
from spp_detect import rcnn
from spp_detect.config import ConfigError
from spp_detect.detector import Detector
from spp_detect.parts import PARTS, Window, WindowPart
from spp_detect.training.feature_cache import FillCache
from spp_detect.training.stage import do_stage

CHANNELS, BINS = 128, 50  # of small5's last layer, of the default pyramid


class Surroundings(WindowPart):
    """What lies around a window: twice as wide and high."""

    def place(self, windows, size):
        reach = (windows[:, 2:] - windows[:, :2]) / 2
        return np.concatenate([windows[:, :2] - reach, windows[:, 2:] + reach], axis=1)


class Detail(Window):
    """The window on the map of an earlier layer, of 96 channels, whole and in quarters."""

    layer = "conv3"

    def find_levels(self, levels):
        return (2, 1)


@pytest.fixture(autouse=True)
def more_parts(monkeypatch):
    monkeypatch.setitem(PARTS, "surroundings", Surroundings())
    monkeypatch.setitem(PARTS, "detail", Detail())
    monkeypatch.setitem(rcnn.BATCHES, "cpu", 2)  # small passes, many


BOTH = ("window", "surroundings")
LENGTHS = {
    BOTH: (CHANNELS * BINS, CHANNELS * BINS),
    ("surroundings", "window"): (CHANNELS * BINS, CHANNELS * BINS),
    ("window", "detail"): (CHANNELS * BINS, 96 * 5),
}
TUNED = {"feature": "fc7", "finetune_iterations": 4, "fc_width": 16}
RCNN = {"extractor": "rcnn", "max_windows": 12, "norm_windows": 5}


def pool(run, windows):
    """Features of windows of the first photograph: float (N, D)."""
    pooled = run.extractor.compute_maps(read_photo(run.dataset.photographs[0].path)).pool(windows)
    return pooled.features[pooled.inverse]


@pytest.mark.parametrize(
    ("parts", "changes"),
    [
        (BOTH, {"scales": (120, 200)}),
        (BOTH, TUNED),
        (BOTH, TUNED | {"train_from": "conv4"}),
        (BOTH, RCNN),
        (BOTH, RCNN | TUNED),
        (("surroundings", "window"), {}),
        (("window", "detail"), TUNED),
        (("window", "detail"), RCNN),
    ],
)
def test_a_run_with_two_parts_trains_and_detects_as_it_was_saved(
    tmp_path, make_run, small_set, small_config, parts, changes
):
    config = small_config(parts=parts, **changes)
    run = make_run(tmp_path / "run", small_set, config)
    assert run.extractor.lengths == LENGTHS[parts]
    assert run.extractor.length == sum(LENGTHS[parts])
    photo = read_photo(small_set.photographs[0].path)
    windows = small_set.photographs[0].labels.boxes + np.float32(1)
    alone = [make_run(tmp_path / p, small_set, small_config(parts=(p,), **changes)) for p in parts]
    values = torch.cat([pool(one, windows) for one in alone], dim=1)
    torch.testing.assert_close(pool(run, windows), values, atol=1e-5, rtol=1e-4)
    trained = run.train()
    loaded = Detector.load(tmp_path / "run", "cpu")
    assert loaded.config.parts == parts
    assert loaded.extractor.length == loaded.heads.regression_coef.shape[1] == sum(LENGTHS[parts])
    for tensor in loaded.heads.state_dict().values():
        assert torch.isfinite(tensor).all()
    # No part is without a say.
    for own in loaded.heads.regression_coef.split(LENGTHS[parts], dim=1):
        assert own.abs().sum() > 0
    ours, theirs = (one.detect(photo, windows) for one in (trained, loaded))
    assert len(ours.boxes)
    assert ours == theirs


@pytest.mark.parametrize(
    ("parts", "train_from"), [(BOTH, ""), (BOTH, "conv4"), (("window", "detail"), "")]
)
def test_fine_tuning_pools_every_part(
    tmp_path, make_run, small_set, small_config, parts, train_from
):
    config = small_config(parts=parts, scales=(120, 200), train_from=train_from, **TUNED)
    run = make_run(tmp_path / "run", small_set, config)
    table = run.propose()
    tuner = run.make_tuner(table, run.open_cache(table))
    tuner.network.eval()
    for draw, read in tuner.read(tuner.sampler.draw_batch(0)[:6]):
        pooled = read()
        photo = read_photo(small_set.photographs[draw.photograph].path)
        photo = photo[:, ::-1].copy() if draw.mirrored else photo
        one_scale = small_config(parts=parts, scales=((120, 200)[draw.scale],))
        alone = make_run(tmp_path / "alone", small_set, one_scale)
        windows = table.find(draw.photograph, mirrored=draw.mirrored)[draw.rows]
        expected = alone.extractor.compute_maps(photo).pool(windows)
        wanted = expected.features[expected.inverse].float()
        torch.testing.assert_close(pooled.detach(), wanted, atol=0.01, rtol=0.01)


def test_maps_of_both_layers_are_kept_and_read(tmp_path, make_run, small_set, small_config):
    run = make_run(tmp_path / "run", small_set, small_config(parts=("window", "detail")))
    table = run.propose()
    cache = run.open_cache(table)
    do_stage(FillCache(cache), run.folder)
    names = {path.name for path in (run.work / "maps").iterdir()}
    assert names == {
        f"{i:06d}-160{layer}.npy" for i in range(len(small_set)) for layer in ("", "-conv3")
    }
    # Of the two one is lost: both are computed again, and are as before.
    before = cache.pool(0, table.find_rows(0)).features
    (run.work / "maps" / "000000-160-conv3.npy").unlink()
    again = run.open_cache(table)
    assert torch.equal(again.pool(0, table.find_rows(0)).features, before)
    assert (run.work / "maps" / "000000-160-conv3.npy").is_file()


def test_another_choice_of_parts_is_another_run(tmp_path, make_run, small_set, small_config):
    make_run(tmp_path / "run", small_set, small_config()).begin()
    other = make_run(tmp_path / "run", small_set, small_config(parts=BOTH))
    with pytest.raises(ValueError, match=r"run\.json: the run was begun with parts \['window'\]"):
        other.begin()


def test_a_tuned_trunk_has_no_parts_of_earlier_layers(small_config):
    with pytest.raises(ConfigError, match="train_from 'conv4': expected none with parts of earli"):
        small_config(parts=("window", "detail"), train_from="conv4", **TUNED)
    with pytest.raises(ConfigError, match=r"parts .*expected some of window, surroundings, detail"):
        small_config(parts=("windows",))
