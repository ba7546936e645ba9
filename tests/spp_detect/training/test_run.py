"""Whole runs: repeatable, and resumable after kill -9 in every stage."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from data import LabelledSet, Labels, Photograph, open_dataset, read_photo
from proposals import save_boxes
from spp_detect import cli
from spp_detect.config import make_run_config
from spp_detect.detector import Detector
from spp_detect.features import WindowFeatures
from spp_detect.training.assembly import RunOptions, find_options
from spp_detect.training.feature_scale import MeasureScales
from spp_detect.training.run import check_positives
from spp_detect.training.run_folder import TrainingError, check_new
from spp_detect.training.svms import TrainSvms
from spp_detect.training.windows import WindowTable, make_keys

# The command line, with a checkpoint of the mining after every 4 photographs.
DRIVER = """
import sys
import spp_detect.training.svms
spp_detect.training.svms.CHECKPOINT_EVERY = 4
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
    with pytest.raises(TrainingError, match="not an empty folder; give another"):
        check_new(tmp_path)
    with pytest.raises(TrainingError, match="--resume"):
        check_new(tmp_path, resumes=True)


def test_options_of_a_begun_run_hold_but_for_those_given(tmp_path):
    given = {"split": "train", "settings": {"seed": 0}}
    assert find_options(tmp_path, given) == RunOptions(split="train", settings={"seed": 0})
    begun = {"split": "val", "weights": "none", "settings": {"seed": 5, "scales": [160]}}
    (tmp_path / "run.json").write_text(json.dumps({"options": begun}))
    assert find_options(tmp_path, {}) == RunOptions(**begun)
    other = find_options(tmp_path, {"preset": "paper", "settings": {"seed": 7}})
    assert other == RunOptions(
        **{**begun, "settings": {"seed": 7, "scales": [160]}}, preset="paper"
    )
    # The trunk as it started, wherever its weights came from.
    trunk = tmp_path / "work" / "trunk.safetensors"
    trunk.parent.mkdir()
    trunk.touch()
    assert find_options(tmp_path, {}).weights == str(trunk)
    assert find_options(tmp_path, {"weights": "imagenet"}).weights == "imagenet"
    for text in ("{", "{}", '{"options": {"splt": "val"}}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(TrainingError, match=r"run\.json: not the description of a run"):
            find_options(tmp_path, {})


class KilledError(Exception):
    """Stands for whatever ends a run."""


def end_here(_):
    raise KilledError


@pytest.fixture
def spp(capsys, monkeypatch):
    """Runs the command line in this process, on the CPU: exit status, stdout, stderr."""

    def run(command, *arguments):
        given = [command, *map(str, arguments), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["spp-detect", *given])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code or 0, captured.out, captured.err

    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


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
        "work/windows.bin",
        "work/maps/000003-*.npy",
        "work/feature_scale.json",
        "work/positives.npy",
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
    assert not (out / "work" / "positives.npy").exists()


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


def make_svms(run, table):
    """What mines a run's windows: its whole trunk, its fc layers up to the feature."""
    depth = {"pool5": 0, "fc6": 1}[run.config.model.feature]
    fc = run.fc_layers.cut(depth).eval() if depth else None
    order = [*range(len(run.dataset))]
    cache = run.open_cache(table)
    return TrainSvms(run.work, run.dataset, order, cache, fc, run.config, 1.0)


def test_mirrored_positives_are_pooled_from_the_mirrored_photograph(
    tmp_path, small_set, make_run, small_config
):
    plain = make_run(tmp_path / "plain", small_set, small_config(mirror_positives=False))
    mirrored = make_run(tmp_path / "mirrored", small_set, small_config())
    table = WindowTable(small_set, [np.zeros((0, 4), np.float32)] * len(small_set))
    once, twice = (make_svms(run, table).pool_positives() for run in (plain, mirrored))
    assert [2 * len(rows) for rows in once] == [len(rows) for rows in twice]
    photo = read_photo(small_set.photographs[0].path)[:, ::-1].copy()
    easy = small_set.photographs[0].labels.easy
    boxes = easy.boxes.copy()
    boxes[:, [0, 2]] = photo.shape[1] - boxes[:, [2, 0]]
    pooled = mirrored.extractor.compute_maps(photo).pool(boxes)
    c = int(easy.classes[0])
    number = int((easy.classes == c).sum())
    assert (twice[c][:number] == once[c][:number]).all()
    assert (twice[c][number] != once[c][0]).any()
    wanted = pooled.features[pooled.inverse[0]].float().numpy()
    np.testing.assert_allclose(twice[c][number], wanted, atol=0.02)


def join_positives(run, svms):
    """Each class's, pooled photograph by photograph and joined in memory."""
    rows = [[] for _ in run.dataset.classes]
    for i, photograph in enumerate(run.dataset):
        classes = photograph.labels.easy.classes
        for mirrored in (False, True):
            pooled = svms.cache.pool(i, np.arange(len(classes)), mirrored=mirrored, keep=False)
            features = svms.fc(pooled.features.float()) if svms.fc else pooled.features
            features = features.detach().half().numpy()[pooled.inverse]
            for features_of_one, c in zip(features, classes, strict=True):
                rows[c].append(features_of_one)
    return [np.stack(own) for own in rows]


POSITIVES_DAMAGES = {
    "none": lambda raw: None,
    "empty": lambda raw: b"",
    "cut": lambda raw: raw[:-2],
    "header": lambda raw: b"XX" + raw[2:],
    "of fewer values": lambda raw: raw.replace(b"'shape': (", b"'shape': (1", 1),
    "of another type": lambda raw: raw.replace(b"<f2", b"<i2", 1),
}


@pytest.mark.parametrize("feature", ["pool5", "fc6"])
def test_positives_are_pooled_once_and_again_where_their_file_is_damaged(
    feature, tmp_path, small_set, make_run, small_config, monkeypatch
):
    config = small_config(feature=feature, fc_width=16, precision="float32")
    run = make_run(tmp_path / "run", small_set, config)
    svms = make_svms(run, WindowTable(small_set, [np.zeros((0, 4), np.float32)] * len(small_set)))
    wanted = join_positives(run, svms)
    assert len({len(own) for own in wanted}) > 1

    def assert_right(rows):
        assert [own.dtype for own in rows] == [np.float16] * len(wanted)
        tolerance = 1e-2 if feature == "fc6" else 0  # products of other sizes
        for own, other in zip(rows, wanted, strict=True):
            np.testing.assert_allclose(own, other, rtol=tolerance, atol=tolerance)

    assert_right(svms.pool_positives())
    path = run.work / "positives.npy"
    whole = path.read_bytes()
    assert path.stat().st_size <= sum(own.nbytes for own in wanted) + 128
    with monkeypatch.context() as patch:
        patch.setattr(svms, "_pool_boxes", lambda *_: pytest.fail("pooled again"))
        assert_right(svms.pool_positives())
    for damage in POSITIVES_DAMAGES.values():
        damaged = damage(whole)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        assert_right(svms.pool_positives())
        assert path.read_bytes() == whole


def test_a_run_stopped_while_it_pools_positives_leaves_no_part_of_them(
    tmp_path, small_set, make_run, small_config, monkeypatch
):
    run = make_run(tmp_path / "run", small_set, small_config())
    svms = make_svms(run, WindowTable(small_set, [np.zeros((0, 4), np.float32)] * len(small_set)))
    pool = svms._pool_boxes

    def stop_at_the_fourth(index, mirrored):
        if index == 3:
            raise KilledError
        return pool(index, mirrored)

    with monkeypatch.context() as patch:
        patch.setattr(svms, "_pool_boxes", stop_at_the_fourth)
        with pytest.raises(KilledError):
            svms.pool_positives()
    assert not any(run.work.glob("*positives*"))
    assert not any(run.work.glob(".*"))


@pytest.mark.parametrize("feature", ["pool5", "fc6"])
def test_mined_windows_are_pooled_again(feature, tmp_path, small_set, make_run, small_config):
    """Several photographs', one of a single window: each row as that window alone gives."""
    config = small_config(feature=feature, fc_width=16, precision="float32")
    run = make_run(tmp_path / "run", small_set, config)
    # Two of one photograph cover the same cells.
    three = np.array([[9, 5, 70, 60], [0, 0, 30, 90], [9, 5, 70, 60.5]], np.float32)
    table = WindowTable(small_set, [three for _ in small_set])
    svms = make_svms(run, table)
    boxes = [len(small_set.photographs[i].labels.easy) for i in range(6)]
    chosen = [(0, 0), (0, boxes[0]), (3, 1), *((5, boxes[5] + k) for k in range(3))]
    alone = []
    for i, k in chosen:
        photograph = small_set.photographs[i]
        window = np.concatenate([photograph.labels.easy.boxes, three])[k : k + 1]
        pooled = run.extractor.compute_maps(read_photo(photograph.path)).pool(window)
        features = pooled.features.half().float()
        alone.append(features if svms.fc is None else svms.fc(features).half().float())
    wanted = torch.cat(alone).detach().numpy()
    rows = np.full(wanted.shape, np.nan, np.float32)
    svms.fetch(np.concatenate([make_keys(i, np.array([k])) for i, k in chosen]), rows)
    assert (rows == rows.astype(np.float16)).all()
    np.testing.assert_allclose(rows, wanted, rtol=1e-2 if feature == "fc6" else 0)


def test_windows_of_another_file_are_refused(tmp_path, small_voc, spp):
    """In one line that names run.json and the windows, before anything is trained on them."""
    boxes, other = tmp_path / "boxes.npz", tmp_path / "other.npz"
    photographs = open_dataset(small_voc, "trainval").photographs
    names = [photograph.name for photograph in photographs]
    windows = [np.array([[0, 0, 40, 30], [8, 9, 60, 70]], np.float32) for _ in names]
    save_boxes(boxes, names, windows)
    windows[-1] = windows[-1] + np.array([0, 0, 0, 1], np.float32)
    save_boxes(other, names, windows)
    run = tmp_path / "run"
    settings = ("--backbone", "small5", "--weights", "none", "--scales", "160", "--boxes", boxes)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(TrainSvms, "run", end_here)
        spp("train", small_voc, "--out", run, *settings)
    before = snapshot(run)
    status, _, errors = spp("train", small_voc, "--out", run, "--resume", "--boxes", other)
    assert status == 2
    lines = errors.strip().splitlines()
    assert lines[-1].startswith(f"spp-detect: error: {run / 'run.json'}: ")
    assert "other boxes" in lines[-1]
    assert len(lines) == 1
    assert snapshot(run) == before
    # The first file again, at another place, is the same.
    shutil.copy(boxes, other)
    assert spp("train", small_voc, "--out", run, "--resume", "--boxes", other)[0] == 0


def test_set_and_config_file_are_what_the_run_is_begun_with(tmp_path, small_voc, spp):
    run, file = tmp_path / "run", tmp_path / "constants.json"
    constants = {"backbone": "small5", "scales": [160], "regression_lambda": 50, "svm_c": 0.25}
    file.write_text(json.dumps(constants | {"max_windows": 30, "nms_iou": 0.4}))
    given = ("--weights", "none", "--set", "svm_c=0.5", "--set", "nms_iou=0.35", "--config", file)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(TrainSvms, "run", end_here)
        spp("train", small_voc, "--out", run, *given, "--max-windows", 25)
    model = {"backbone": "small5", "scales": [160], "nms_iou": 0.35, "max_windows": 25}
    training = {"svm_c": 0.5, "regression_lambda": 50.0}  # --set before the file
    begun = json.loads((run / "run.json").read_text())
    assert begun["config"].items() >= (model | training).items()
    assert begun["options"]["settings"].items() >= {"svm_c": 0.5, "max_windows": 25}.items()

    file.unlink()  # it was read for good
    for key, old in (("svm_c", 0.5), ("nms_iou", 0.35)):
        status, _, errors = spp("train", small_voc, "--out", run, "--resume", "--set", f"{key}=0.2")
        assert status == 2
        lines = errors.strip().splitlines()
        assert lines == [
            f"spp-detect: error: {run / 'run.json'}: the run was begun with {key} {old}, "
            "now it is 0.2"
        ]
    assert json.loads((run / "run.json").read_text()) == begun

    assert spp("train", small_voc, "--out", run, "--resume", "--set", "svm_c=0.5")[0] == 0
    described = json.loads((run / "config.json").read_text())
    assert described["config"].items() >= model.items()
    assert described["training"].items() >= training.items()
    assert json.loads((run / "run.json").read_text()) == begun
    loaded = Detector.load(run, "cpu")
    assert (loaded.training.svm_c, loaded.config.nms_iou) == (0.5, 0.35)


def test_a_models_own_config_json_begins_another_run_like_it(tmp_path, small_model, small_voc, spp):
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(TrainSvms, "run", end_here)
        config = ("--config", small_model / "config.json")
        spp("train", small_voc, "--out", run, "--weights", "none", *config, "--set", "svm_c=0.5")
    begun = json.loads((run / "run.json").read_text())["config"]
    wanted = json.loads((small_model / "run.json").read_text())["config"]
    assert begun == wanted | {"svm_c": 0.5}


def test_settings_that_cannot_be_are_one_line(tmp_path, small_voc, spp):
    def line(*given):
        status, _, errors = spp("train", small_voc, "--out", tmp_path / "run", *given)
        assert status == 2
        return errors.strip().splitlines()[-1]

    assert "'svm_d=1': expected key=value" in line("--set", "svm_d=1")
    assert "svm_c 'much': expected float" in line("--set", "svm_c=much")
    assert "svm_c 0" in line("--set", "svm_c=0")
    file = tmp_path / "constants.json"
    file.write_text('{"svm_c": 1,')
    assert f"{file}: expected a json" in line("--config", file)
    file.write_text('{"svm_d": 1}')
    assert "unknown key 'svm_d'" in line("--config", file)
    assert "none.json" in line("--config", tmp_path / "none.json")
    assert not (tmp_path / "run").exists()


def test_other_windows_than_an_earlier_starts_are_refused(
    tmp_path, small_set, make_run, small_config
):
    """Whatever changed them: the mining's keys and R-CNN's features go by their rows."""
    run = make_run(tmp_path / "run", small_set, small_config(max_windows=30))
    run.begin()
    run.propose()
    again = make_run(tmp_path / "run", small_set, small_config(max_windows=30))
    again.begin()
    assert again.propose().sha256 == run.propose().sha256
    path = tmp_path / "run" / "work" / "windows.bin"
    windows = np.fromfile(path, "<f4")
    windows[22] += 1
    windows.tofile(path)
    with pytest.raises(TrainingError, match=r"windows\.json: the run was begun with other windows"):
        again.propose()


class FewWindows:
    """A cache of two photographs, the first without proposals."""

    def __init__(self, counts):
        self.counts = counts
        self.table = self

    def find_proposals(self, index):
        return np.arange(self.counts[index])

    def pool(self, index, rows):
        features = torch.full((len(rows), 4), 2.0)
        return WindowFeatures(features, rows, rows, np.zeros((len(rows), 4), np.float32), (9, 9))


def test_photographs_without_windows_have_no_share_in_the_scale(tmp_path):
    config = make_run_config()
    stage = MeasureScales(tmp_path, [0, 1], FewWindows([0, 3]), None, config)
    stage.run()
    assert stage.load() == (5.0, 5.0)  # 20 over the norm of four times 2
    with pytest.raises(TrainingError, match="no photograph has a window"):
        MeasureScales(tmp_path, [0, 1], FewWindows([0, 0]), None, config).run()
