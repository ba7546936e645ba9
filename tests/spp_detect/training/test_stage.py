"""The rule by which a run resumes: a stage whose files stand is not run again, but is timed."""

from __future__ import annotations

import json

import pytest

from spp_detect.training.calibrate import Calibrate
from spp_detect.training.components import FindComponents
from spp_detect.training.fc_start import FcStart
from spp_detect.training.feature_cache import FillCache
from spp_detect.training.feature_scale import MeasureScales
from spp_detect.training.finetuning import FineTune
from spp_detect.training.regression import FitRegression
from spp_detect.training.run import TrainingRun
from spp_detect.training.stage import Stage, do_stage
from spp_detect.training.svms import TrainSvms
from spp_detect.training.windows import Proposals


class Writing(Stage[list[str]]):
    """Writes those of its files that are missing."""

    name = "writing"

    def __init__(self, folder, *names):
        self.leaves = tuple(folder / name for name in names)
        self.written = []

    def run(self):
        for path in self.leaves:
            if not path.is_file():
                path.write_text(path.name)
                self.written.append(path.name)

    def load(self):
        return [path.read_text() for path in self.leaves]


class Caching(Stage[None]):
    """Leaves no file that says that it is done."""

    name = "caching"
    runs = 0

    def run(self):
        self.runs += 1

    def load(self):
        return None


def read_history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_a_stage_is_run_once_and_stands_in_the_history_at_every_start(tmp_path):
    for start, written in enumerate((["a", "b"], [], []), 1):
        stage = Writing(tmp_path, "a", "b")
        assert do_stage(stage, tmp_path) == ["a", "b"]
        assert stage.written == written
        history = read_history(tmp_path)
        assert [one["stage"] for one in history] == ["writing"] * start
        assert all(one["seconds"] >= 0 for one in history)


def test_a_stage_of_which_a_file_is_missing_is_run(tmp_path):
    do_stage(Writing(tmp_path, "a", "b"), tmp_path)
    (tmp_path / "b").unlink()
    stage = Writing(tmp_path, "a", "b")
    assert not stage.is_done()
    assert do_stage(stage, tmp_path) == ["a", "b"]
    assert stage.written == ["b"]


def test_a_stage_without_files_is_run_at_every_start(tmp_path):
    stage = Caching()
    for start in (1, 2):
        do_stage(stage, tmp_path)
        assert stage.runs == start


def test_a_stage_that_fails_is_not_in_the_history(tmp_path, monkeypatch):
    def fail(_):
        raise KeyError

    do_stage(Writing(tmp_path, "a"), tmp_path)
    monkeypatch.setattr(Writing, "run", fail)
    with pytest.raises(KeyError):
        do_stage(Writing(tmp_path, "b"), tmp_path)
    assert len(read_history(tmp_path)) == 1


def test_a_whole_run_started_again_does_none_of_its_stages(
    tmp_path, small_set, make_run, small_config, monkeypatch
):
    config = small_config(feature="fc7", finetune_iterations=2, fc_width=8)
    folder = tmp_path / "run"
    make_run(folder, small_set, config).train()
    model = (folder / "model.safetensors").read_bytes()
    names = [
        "proposals",
        "components",
        "fc start",
        "fine-tuning",
        "maps",
        "feature scale",
        "svms",
        "box regression",
        "calibration",
    ]
    assert [one["stage"] for one in read_history(folder)] == names
    stages = (Proposals, FindComponents, FcStart, FineTune, MeasureScales, TrainSvms)
    stages += (FitRegression, Calibrate)
    for stage in stages:
        monkeypatch.setattr(stage, "run", lambda self: pytest.fail(f"{self.name}: run again"))
    # It labels all windows for nothing.
    monkeypatch.setattr(TrainingRun, "make_tuner", lambda *_: pytest.fail("a tuner made again"))
    # Maps are gone with the end of the run, and are none of the model.
    monkeypatch.setattr(FillCache, "run", lambda _: None)
    make_run(folder, small_set, config).train()
    assert (folder / "model.safetensors").read_bytes() == model
    again = [one["stage"] for one in read_history(folder)]
    # The layers are tuned: what they started from is not asked.
    of_the_start = ("components", "fc start")
    assert again == names + [name for name in names if name not in of_the_start]
    stages = json.loads((folder / "metrics.json").read_text())["stages"]
    assert [one["stage"] for one in stages] == again
