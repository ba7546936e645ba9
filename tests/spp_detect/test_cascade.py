"""The first stage of a cascade: which windows the fc layers see."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from data import read_photo
from spp_detect import cli
from spp_detect.cascade import FirstStage
from spp_detect.detector import Detector
from spp_detect.evaluation import detect_dataset, measure
from spp_detect.experiments.cascade_size import choose_count, measure_counts
from spp_detect.fc import FcLayers
from spp_detect.features import WindowFeatures
from spp_detect.heads import Heads
from spp_detect.model_folder import ModelError


def make_pooled() -> WindowFeatures:
    """Twelve windows on seven distinct sets of cells, in no order."""
    inverse = np.array([0, 1, 2, 1, 3, 4, 0, 5, 6, 4, 2, 6])
    first = np.unique(inverse, return_index=True)[1]
    features = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32))
    windows = np.arange(48, dtype=np.float32).reshape(12, 4)
    return WindowFeatures(features, first, inverse, windows, (60, 50))


@pytest.mark.parametrize("count", [1, 3, 6])
def test_the_best_distinct_windows_are_kept(count):
    pooled = make_pooled()
    random = torch.Generator().manual_seed(0)
    stage = FirstStage(torch.randn(3, 5, generator=random), torch.randn(3, generator=random))
    scores = (pooled.features @ stage.coef.T + stage.intercept).max(dim=1).values.numpy()
    best = set(np.argsort(-scores)[:count].tolist())
    wanted = [i for i in range(12) if pooled.inverse[i] in best]
    kept = stage.choose(pooled, count)
    np.testing.assert_array_equal(kept.windows, pooled.windows[wanted])
    assert kept.size == (60, 50)
    assert len(kept.features) == len(kept.first) == count
    # Each window still has its own features, and each row its first window.
    torch.testing.assert_close(kept.features[kept.inverse], pooled.features[pooled.inverse[wanted]])
    np.testing.assert_array_equal(kept.inverse[kept.first], np.arange(count))
    for row, place in enumerate(kept.first):
        assert place == np.flatnonzero(kept.inverse == row)[0]


@pytest.mark.parametrize("count", [7, 100])
def test_enough_for_all_changes_nothing(count):
    pooled = make_pooled()
    assert FirstStage(torch.ones(3, 5), torch.ones(3)).choose(pooled, count) is pooled


@pytest.fixture
def with_fc(small_detector) -> Detector:
    """A model of the small one's trunk with fc6, its heads at random."""
    torch.manual_seed(0)
    length = small_detector.extractor.length
    config = dataclasses.replace(small_detector.config, feature="fc6", fc_width=8)
    svm = torch.randn(len(small_detector.classes), 8) * 0.1
    heads = Heads(**(small_detector.heads.state_dict() | {"svm_coef": svm}))
    fc = FcLayers(length, 8, 1)
    return Detector(config, small_detector.classes, small_detector.extractor, heads, fc)


def test_from_the_command_line(with_fc, small_model, small_set, tmp_path, monkeypatch):
    with_fc.save(tmp_path / "whole")
    options = ["--first", str(small_model), "--promising", "5", "--rank", "4"]
    arguments = ["compress", str(tmp_path / "whole"), *options, "--out", str(tmp_path / "fast")]
    monkeypatch.setattr("sys.argv", ["spp-detect", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    fast = Detector.load(tmp_path / "fast", "cpu")
    assert (fast.config.fc_rank, fast.config.promising) == (4, 5)
    assert isinstance(fast.first, FirstStage)
    photo = read_photo(small_set.photographs[0].path)
    windows = np.random.default_rng(0).uniform(0, 60, (40, 4)).astype(np.float32)
    windows[:, 2:] += windows[:, :2] + 10
    cheap = Detector.load(small_model, "cpu").score(photo, windows).scores.amax(dim=1)
    scored = fast.score(photo, windows)
    every = with_fc.compress(4).score(photo, windows)
    assert 5 <= len(scored.boxes) < 40
    best = {tuple(windows[i]) for i in cheap.argsort(descending=True)[:5].tolist()}
    assert best <= {tuple(box) for box in scored.boxes.tolist()}
    rows = [windows.tolist().index(box) for box in scored.boxes.tolist()]
    torch.testing.assert_close(scored.scores, every.scores[rows])


def test_what_does_not_fit_together_is_refused(with_fc, small_detector):
    with pytest.raises(ModelError, match="cascade of pool5 after fc6"):
        small_detector.cascade(with_fc, 5)
    heads = Heads(**small_detector.heads.state_dict())
    names = ("other", *small_detector.classes[1:])
    other = Detector(small_detector.config, names, small_detector.extractor, heads)
    config = dataclasses.replace(small_detector.config, parts=("window", "window"))
    doubled = Detector(config, small_detector.classes, small_detector.extractor, heads)
    for one in (other, doubled):
        with pytest.raises(ModelError, match="expected the same trunk, levels and classes"):
            with_fc.cascade(one, 5)


def test_nothing_to_do_is_told(small_model, tmp_path, monkeypatch, capsys):
    arguments = ["compress", str(small_model), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["spp-detect", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "give --rank, --first or both" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_each_count_is_measured_as_the_cascade_with_it_detects(with_fc, small_detector, small_set):
    cascade = with_fc.cascade(small_detector, 5)
    found = measure_counts(cascade, small_set, 10_000, counts=(3, 20))
    for count in (3, 20):
        alone = detect_dataset(with_fc.cascade(small_detector, count), small_set)
        assert found[count] == measure(alone, small_set)[0].mean_ap
    assert found[0] == measure(detect_dataset(with_fc, small_set), small_set)[0].mean_ap
    assert found[0] != found[3]


def test_the_least_count_is_chosen_from_which_on_nothing_is_lost():
    assert choose_count({0: 0.5, 50: 0.4, 100: 0.496, 200: 0.5, 300: 0.497}) == 100
    assert choose_count({0: 0.5, 50: 0.5, 100: 0.494, 200: 0.51}) == 200
    with pytest.raises(ModelError, match=r"loses more than 0\.005 mAP with 100 windows"):
        choose_count({0: 0.5, 50: 0.5, 100: 0.494})
    with pytest.raises(ModelError, match="loses more"):
        choose_count({0: math.nan, 50: math.nan})


def test_calibrated_from_the_command_line(
    with_fc, small_model, small_voc, tmp_path, monkeypatch, capsys
):
    with_fc.save(tmp_path / "whole")
    options = ["--first", str(small_model), "--calibrate", str(small_voc), "--split", "test"]
    out = tmp_path / "fast"
    arguments = ["compress", str(tmp_path / "whole"), *options, "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["spp-detect", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    numbers = json.loads((out / "calibration.json").read_text())
    chosen = {int(k) if k != "all" else 0: v for k, v in numbers["mAP"].items()}
    assert Detector.load(out, "cpu").config.promising == choose_count(chosen)
    assert "windows: mAP" in capsys.readouterr().out
