"""What scores mean: SVMs trained without some photographs, and what their detections say."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from data import read_photo
from eval import Detections, ScoreOdds
from spp_detect.calibration import Calibration
from spp_detect.detector import Detector
from spp_detect.ensemble import load_detector
from spp_detect.folders import report_folder
from spp_detect.training.calibrate import MOST_HELD_OUT, Calibrate, hold_out
from spp_detect.training.feature_cache import FillCache
from spp_detect.training.stage import do_stage
from spp_detect.training.svms import APART, TrainSvms
from spp_detect.training.windows import split_keys
from svm import LinearSvm


def test_a_fifth_is_held_out_of_so_many_at_most():
    assert hold_out(list(range(23))) == [0, 5, 10, 15, 20]
    assert MOST_HELD_OUT * 0.9 < len(hold_out(list(range(5011)))) <= MOST_HELD_OUT


def test_svms_trained_apart_know_nothing_of_the_photographs_held_out(
    make_run, small_set, small_config, tmp_path, monkeypatch
):
    """They are those of the same negatives and positives without these photographs'."""
    run = make_run(tmp_path / "run", small_set, small_config(precision="float32"))
    run.begin()
    table = run.propose()
    cache = run.open_cache(table)
    do_stage(FillCache(cache), run.folder)
    held_out = run.order[::5]
    stage = TrainSvms(
        run.work, small_set, run.order, cache, None, run.config, 0.3, held_out=held_out
    )
    miners = []
    mine = TrainSvms._mine

    def keep(self):
        miners.append(mine(self))
        return miners[0]

    monkeypatch.setattr(TrainSvms, "_mine", keep)
    stage.run()
    apart = load_file(run.work / APART)
    state = miners[0].state()
    training = run.config.training
    for c, keys in enumerate(np.split(state.keys, np.cumsum(state.counts)[:-1])):
        rows, labels = [], []
        for i, photograph in enumerate(small_set):
            own = np.flatnonzero(photograph.labels.easy.classes == c)
            for mirrored in (False, True) if i not in held_out and len(own) else ():
                pooled = cache.pool(i, own, mirrored=mirrored)
                rows.append(pooled.features[pooled.inverse].half().float())
                labels += [1] * len(own)
        for i, own in split_keys(keys):
            if i not in held_out:
                pooled = cache.pool(i, own)
                rows.append(pooled.features[pooled.inverse].half().float())
                labels += [-1] * len(own)
        features = torch.cat(rows).numpy() * np.float32(0.3)
        weights = training.svm_c, training.positive_weight, training.bias_multiplier
        svm = LinearSvm(*weights, training.svm_tolerance, seed=0)
        svm.fit(features, np.array(labels))
        ours = (
            features @ (apart["coef"][c].numpy() / np.float32(0.3)) + apart["intercept"][c].item()
        )
        np.testing.assert_allclose(ours, svm.decision_function(features), atol=0.02)
    assert not np.allclose(apart["coef"], state.coef)
    stage.load()
    assert (run.work / APART).is_file()


@pytest.fixture(scope="module")
def known_model(small_model, tmp_path_factory):
    """The small model with a calibration put to it."""
    detector = Detector.load(small_model, "cpu")
    curves = ScoreOdds(0.5, 3.0, -1.5, -0.9), ScoreOdds(0.7, 3.5, -1.8, -0.9)
    detector.calibration = Calibration.of(*curves)
    folder = tmp_path_factory.mktemp("known")
    detector.save(folder)
    return folder


def test_probabilities_by_hand(known_model, small_set):
    detector = Detector.load(known_model, "cpu")
    found = Detections(np.zeros((3, 4)), np.array([0.0, 1.0, -2.0]), np.array([0, 4, 2]))
    wanted = 1 / (1 + np.exp(-np.array([0.5 - 1.5 * 0.9, 3.5 - 1.5 * 1.9, 0.5 - 6])))
    np.testing.assert_allclose(detector.find_probabilities(found), wanted, rtol=1e-5)
    # Scores that no votes raised have a curve of their own.
    alone = detector.change(support=0.0)
    wanted = 1 / (1 + np.exp(-np.array([0.7 - 1.8 * 0.9, 4.2 - 1.8 * 1.9, 0.7 - 7])))
    np.testing.assert_allclose(alone.find_probabilities(found), wanted, rtol=1e-5)


def test_of_an_older_model_one_curve_is_both(known_model, tmp_path):
    shutil.copytree(known_model, tmp_path / "older")
    path = tmp_path / "older" / "model.safetensors"
    tensors = load_file(path)
    del tensors["calibration.window_odds"]
    save_file(tensors, path)
    older = Detector.load(tmp_path / "older", "cpu").calibration
    assert torch.equal(older.window_odds, tensors["calibration.odds"])


def test_a_model_without_it_says_so(small_model, small_set):
    detector = Detector.load(small_model, "cpu")
    detector.calibration = None
    found = detector.detect(read_photo(small_set.photographs[0].path))
    assert detector.find_probabilities(found) is None


def test_results_tell_probabilities(known_model, small_set, tmp_path):
    detector = Detector.load(known_model, "cpu")
    photo = small_set.photographs[0].path
    report_folder(detector, photo, tmp_path / "out", -1.4)
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    found = detector.detect(photo)
    found = found[found.scores >= -1.4]
    likely = detector.find_probabilities(found)
    assert len(results) == len(found) > 0
    for result, own in zip(results, likely, strict=True):
        assert result["probability"] == pytest.approx(own, abs=1e-4)
    text = (tmp_path / "out" / "index.html").read_text()
    assert '"scoreName":"Least probability"' in text and '"firstScore":0.5' in text
    lines = (tmp_path / "out" / "detections.csv").read_text().splitlines()
    assert lines[0].endswith(",probability")
    assert float(lines[1].rpartition(",")[2]) == pytest.approx(likely[0], abs=1e-4)


def test_models_that_know_are_joined_by_their_odds(known_model, small_set):
    photo = read_photo(small_set.photographs[0].path)
    both = load_detector([known_model, known_model], "cpu").change(passes=1, vote_iou=None)
    alone = Detector.load(known_model, "cpu").change(
        passes=1, vote_iou=None, score_threshold=-10.0, max_detections=10_000
    )
    wanted = alone.detect(photo)
    likely = alone.find_probabilities(wanted)
    joined = both.detect(photo)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-joined.scores)), both.find_probabilities(joined), rtol=1e-5
    )
    ours = {tuple(box.round(2)): score for box, score, _ in joined}
    compared = 0
    for box, own in zip(wanted.boxes, likely, strict=True):
        if own > 0.05 and tuple(box.round(2)) in ours:
            odds = ours[tuple(box.round(2))]
            assert 1 / (1 + np.exp(-odds)) == pytest.approx(own, abs=1e-4)
            compared += 1
    assert compared > 3
    assert len(joined) and joined.scores.min() > -4.6


def test_too_few_detections_leave_it_unknown(
    small_set, small_model, make_run, small_config, tmp_path
):
    run = make_run(tmp_path / "run", small_set, small_config())
    run.begin()
    cache = run.open_cache(run.propose())

    def make_blind():
        return Detector.load(small_model, "cpu").change(score_threshold=99.0)

    stage = Calibrate(run.work, small_set, run.order[::5], cache, make_blind)
    assert do_stage(stage, run.folder) is None
