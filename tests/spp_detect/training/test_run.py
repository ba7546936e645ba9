"""Whole runs: repeatable, and resumable after kill -9 in every stage."""

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

from data import LabelledSet, Labels, Photograph, read_photo
from spp_detect.training.run import WINDOW_BITS, check_positives
from spp_detect.training.run_folder import TrainingError, check_new, find_options

# The command line, with a checkpoint of the mining after every 4 photographs.
DRIVER = """
import sys
import spp_detect.training.run
spp_detect.training.CHECKPOINT_EVERY = 4
from spp_detect.cli import main
main()
"""


def test_class_without_positives_is_named():
    boxes = np.array([[0, 0, 5, 5], [5, 5, 9, 9]], np.float32)
    labels = Labels(boxes, np.array([0, 1]), np.array([False, True]))
    photograph = Photograph("one", Path("one.jpg"), 10, 10, labels)
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
    home = Path(__file__).resolve().parents[3]
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
        "run.json",
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


def test_mirrored_positives_are_pooled_from_the_mirrored_photograph(
    tmp_path, small_set, make_run, small_config
):
    plain = make_run(tmp_path / "plain", small_set, small_config(mirror_positives=False))
    mirrored = make_run(tmp_path / "mirrored", small_set, small_config())
    once, twice = plain._pool_positives(), mirrored._pool_positives()
    assert [2 * len(rows) for rows in once] == [len(rows) for rows in twice]
    photo = read_photo(small_set.photographs[0].path)[:, ::-1].copy()
    easy = small_set.photographs[0].labels.easy
    boxes = easy.boxes.copy()
    boxes[:, [0, 2]] = photo.shape[1] - boxes[:, [2, 0]]
    pooled = mirrored.extractor.pool(mirrored.extractor.compute_maps(photo), boxes)
    c = int(easy.classes[0])
    number = int((easy.classes == c).sum())
    assert (twice[c][:number] == once[c][:number]).all()
    assert (twice[c][number] != once[c][0]).any()
    wanted = pooled.features[pooled.inverse[0]].float().numpy()
    np.testing.assert_allclose(twice[c][number], wanted, atol=0.02)


@pytest.mark.parametrize("feature", ["pool5", "fc6"])
def test_mined_windows_are_pooled_again(feature, tmp_path, small_set, make_run, small_config):
    """Several photographs', one of a single window: each row as that window alone gives."""
    config = small_config(feature=feature, fc_width=16, precision="float32")
    run = make_run(tmp_path / "run", small_set, config)
    # Two of one photograph cover the same cells.
    run.windows = [np.array([[9, 5, 70, 60], [0, 0, 30, 90], [9, 5, 70, 60.5]]) for _ in small_set]
    boxes = [len(run._labelled_windows(i)) - 3 for i in range(6)]
    chosen = [(0, 0), (0, boxes[0]), (3, 1), *((5, boxes[5] + k) for k in range(3))]
    alone = []
    for i, k in chosen:
        pooled = run.extractor.pool(run.maps.get(i), run._labelled_windows(i)[k : k + 1])
        alone.append(run._apply_fc(pooled.features).half().float())
    wanted = torch.cat(alone).numpy()
    rows = np.full(wanted.shape, np.nan, np.float32)
    run._fetch(np.array([(i << WINDOW_BITS) + k for i, k in chosen]), rows)
    assert (rows == rows.astype(np.float16)).all()
    np.testing.assert_allclose(rows, wanted, rtol=1e-2 if feature == "fc6" else 0)
