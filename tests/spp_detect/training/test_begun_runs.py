"""Runs whose folder is not as they left it, and sets that leave a stage with nothing to do."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from data import Labels
from spp_detect.training.assembly import find_options
from spp_detect.training.run_folder import TrainingError


@pytest.fixture
def begun(small_model, small_set, small_config, make_run, tmp_path):
    """A finished run, to damage."""
    folder = shutil.copytree(small_model, tmp_path / "run")
    return make_run(folder, small_set, small_config())


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("windows.bin", b"", "windows.bin: holds 0 windows"),
        ("window_counts.npy", b"", "window_counts.npy: no array"),
        ("feature_scale.json", b"{", "feature_scale.json: no json"),
        ("windows.json", b"[]", "windows.json: list, not an object"),
    ],
)
def test_damaged_files_of_stages_are_told_in_one_line(begun, name, content, match):
    (begun.work / name).write_bytes(content)
    with pytest.raises(TrainingError, match=match) as caught:
        begun.train()
    assert "delete" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_line_of_the_history_is_left_out(begun, caplog):
    history = begun.folder / "history.jsonl"
    history.write_text(history.read_text() + "{\n")
    begun.train()
    assert "history.jsonl: a line is damaged" in caplog.text


def test_stages_of_another_run_are_done_anew(begun):
    """Where run.json is gone, nobody knows what they are of; windows are kept by their names."""
    svms, cached = begun.work / "svms.safetensors", begun.work / "proposals"
    before = load_file(svms)
    kept = sorted(path.name for path in cached.iterdir())
    save_file({name: values + 1 for name, values in before.items()}, svms)
    (begun.folder / "run.json").unlink()
    begun.train()
    assert all((load_file(svms)[name] == values).all() for name, values in before.items())
    assert sorted(path.name for path in cached.iterdir()) == kept


def test_a_class_whose_boxes_are_all_anothers_is_not_moved(
    tmp_path, small_set, small_config, make_run, caplog
):
    """Of equal overlaps the first box wins, so that no window is nearest to the second's."""
    photographs = []
    for one in small_set:
        labels = one.labels.easy
        boxes = np.repeat(labels.boxes, 2, axis=0)
        classes = np.stack([labels.classes, np.full(len(labels), 5)], axis=1).ravel()
        twice = Labels(boxes, classes, np.zeros(len(boxes), bool))
        photographs.append(replace(one, labels=twice))
    both = replace(small_set, classes=(*small_set.classes, "any"), photographs=tuple(photographs))
    run = make_run(tmp_path, both, small_config(max_windows=60))
    run.train()
    last = load_file(run.work / "regression-005.safetensors")
    assert not last["coef"].any()
    assert not last["intercept"].any()
    assert "class any: its boxes are not moved" in caplog.text
    assert load_file(run.work / "regression-000.safetensors")["coef"].any()


def test_the_memory_that_a_run_was_begun_with_holds(tmp_path):
    (tmp_path / "run.json").write_text('{"options": {"memory": 1.5, "map_budget": 3}}')
    asked = find_options(tmp_path, {})
    assert (asked.memory, asked.map_budget) == (1.5, 3)
    asked = find_options(tmp_path, {"memory": 2.0})
    assert (asked.memory, asked.map_budget) == (2.0, 3)
