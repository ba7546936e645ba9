"""Selection of examples by hand-worked cases; whole runs: repeatable, resumable after kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data import LabelledSet, Labels, Photograph
from spp_detect.training import (
    TrainingError,
    check_new,
    check_positives,
    find_negatives,
    find_options,
    select_regression_pairs,
)

# The command line, with a checkpoint of the mining after every 4 photographs.
DRIVER = """
import sys
import spp_detect.training
spp_detect.training.CHECKPOINT_EVERY = 4
from spp_detect.cli import main
main()
"""


def make_photograph(boxes, classes, difficult=None) -> Photograph:
    flags = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult)
    labels = Labels(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), flags)
    return Photograph("one", Path("one.jpg"), 100, 100, labels)


def test_negatives_by_hand():
    photograph = make_photograph([[0, 0, 10, 10], [50, 50, 60, 60]], [0, 1], [False, True])
    windows = np.array(
        [
            [0, 0, 10, 10],  # the box of class 0
            [0, 0, 10, 30],  # IoU 1/3 with it
            [0, 0, 10, 34],  # IoU 10/34 = 0.294
            [50, 50, 60, 60],  # the difficult box of class 1
            [80, 80, 90, 90],  # nothing
        ],
        np.float32,
    )
    negative = find_negatives(photograph, windows, 3, 0.3, None)
    assert negative[:, 0].tolist() == [False, False, True, True, True]
    assert negative[:, 1].tolist() == [True, True, True, False, True]
    assert negative[:, 2].all()


def test_negatives_of_the_paper_do_not_overlap_much():
    photograph = make_photograph([[0, 0, 10, 10]], [0])
    windows = np.array(
        [
            [0, 0, 10, 10],
            [20, 20, 40, 40],  # proposed first: stays
            [20, 20, 40, 38],  # IoU 0.9 with it: goes
            [20, 20, 40, 33],  # IoU 0.65 with the first, 0.72 with one that went: stays
        ],
        np.float32,
    )
    negative = find_negatives(photograph, windows, 2, 0.3, 0.7)
    assert negative[:, 0].tolist() == [False, True, False, True]
    assert negative[:, 1].tolist() == [True, True, False, True]


def test_no_boxes_makes_every_window_a_negative():
    windows = np.array([[0, 0, 5, 5]], np.float32)
    assert find_negatives(make_photograph([], []), windows, 4, 0.3, None).all()


def test_regression_pairs_by_hand():
    photograph = make_photograph(
        [[0, 0, 10, 10], [4, 0, 14, 10], [60, 60, 70, 70]], [0, 1, 0], [False, False, True]
    )
    proposed = np.array(
        [
            [0, 0, 10, 8],  # IoU 0.8 with box 0
            [3, 0, 13, 10],  # IoU 7/13 with box 0, 9/11 with box 1: class 1
            [0, 0, 10, 21],  # IoU 10/21 < 0.5 with box 0
            [60, 60, 70, 70],  # a difficult box
        ],
        np.float32,
    )
    windows, boxes = select_regression_pairs(photograph, proposed, 0, 0.5)
    assert windows.tolist() == [[0, 0, 10, 10], [0, 0, 10, 8]]
    assert boxes.tolist() == [[0, 0, 10, 10]] * 2
    windows, boxes = select_regression_pairs(photograph, proposed, 1, 0.5)
    assert windows.tolist() == [[4, 0, 14, 10], [3, 0, 13, 10]]
    assert boxes.tolist() == [[4, 0, 14, 10]] * 2
    assert len(select_regression_pairs(photograph, proposed, 2, 0.5)[0]) == 0


def test_class_without_positives_is_named():
    photograph = make_photograph([[0, 0, 5, 5], [5, 5, 9, 9]], [0, 1], [False, True])
    dataset = LabelledSet(Path("set"), "train", ("cat", "dog"), (photograph,))
    with pytest.raises(TrainingError, match=r"^set: split train .*'dog'"):
        check_positives(dataset)


def test_new_run_needs_an_empty_folder(tmp_path):
    check_new(tmp_path)
    check_new(tmp_path / "absent")
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="--resume"):
        check_new(tmp_path)


def test_options_of_a_begun_run_hold_but_for_those_given(tmp_path):
    asked = {"split": "train", "seed": 0}
    assert find_options(tmp_path, asked, {}) == asked
    (tmp_path / "run.json").write_text(json.dumps({"options": {"split": "val", "seed": 5}}))
    assert find_options(tmp_path, asked, {"seed": 7}) == {"split": "val", "seed": 7}
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(TrainingError, match=r"run\.json"):
        find_options(tmp_path, asked, {})


def start_training(voc: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-c", DRIVER, "train", str(voc), "--out", str(out), *options]
    settings = ["--backbone", "small5", "--weights", "none", "--scales", "160", "--device", "cpu"]
    home = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(home)}
    return subprocess.Popen(
        command + ([] if "--resume" in options else settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=out.parent,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, small_voc) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    finish(start_training(small_voc, out))
    return out


def test_two_runs_with_one_seed_are_equal_bit_for_bit(tmp_path, small_voc, whole_run):
    finish(start_training(small_voc, tmp_path / "run"))
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "run" / name).read_bytes() == (whole_run / name).read_bytes()


def test_killed_in_every_stage_it_resumes_to_the_same_model(tmp_path, small_voc, whole_run):
    out = tmp_path / "run"
    # What each stage leaves behind first, or on the way.
    signs = (
        "work/trunk.safetensors",
        "work/proposals/*.npz",
        "work/maps/000003-*.npy",
        "work/feature_scale.json",
        "work/mining.safetensors",
        "work/regression-001.safetensors",
        "model.safetensors",
    )
    killed = []
    for sign in signs:
        process = start_training(small_voc, out, *(["--resume"] if killed else []))
        while process.poll() is None and not any(out.glob(sign)):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed.append(sign)
        process.communicate()
    assert len(killed) >= len(signs) - 1  # the last file may stand just before the end
    finish(start_training(small_voc, out, "--resume"))
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (whole_run / name).read_bytes()
    assert not any(out.rglob(".*-*")), "an interrupted write was left behind"


def test_resume_with_other_settings_is_refused(tmp_path, small_voc, whole_run):
    begun = tmp_path / "run"
    begun.mkdir()
    (begun / "run.json").write_bytes((whole_run / "run.json").read_bytes())
    process = start_training(small_voc, begun, "--resume", "--scales", "200")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "scales" in errors.splitlines()[-1]


def test_maps_past_the_budget_change_nothing(tmp_path, small_voc, whole_run):
    finish(start_training(small_voc, tmp_path / "run", "--map-budget", "0"))
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert model == (whole_run / "model.safetensors").read_bytes()


def test_several_scales_and_the_papers_preset_train(tmp_path, small_set, make_run, small_config):
    config = small_config(scales=(120, 200), projection="paper", negative_overlap=0.7)
    detector = make_run(tmp_path / "run", small_set, config).train()
    assert torch.isfinite(detector.heads.svm_coef).all()
    assert torch.isfinite(detector.heads.regression_coef).all()
