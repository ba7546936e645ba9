"""Whoever does a stage's work, and however it is divided, the model is the same."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch

from data import open_dataset
from spp_detect.training import svms
from spp_detect.training.feature_cache import Resources
from spp_detect.training.svms import PART, TrainSvms
from spp_detect.training.windows import WindowTable
from spp_detect.workers import Workers


class Several(Workers):
    """Three who know nothing of each other: each gets a copy of the work, and two items of it."""

    @property
    def count(self):
        return 3

    def __reduce__(self):
        return Workers, ()

    def map(self, work, items):
        for start in range(0, len(items), 2):
            yield from list(deepcopy(work)(items[start : start + 2]))


def train(run, workers):
    run.workers = workers
    run.train()
    return (run.folder / "model.safetensors").read_bytes()


TUNED = {"feature": "fc7", "fc_width": 8, "finetune_iterations": 2}


@pytest.mark.parametrize("changes", [{}, TUNED], ids=["as it is", "tuned"])
def test_divided_work_makes_the_same_model(tmp_path, small_voc, make_run, small_config, changes):
    """Alone with all maps kept, divided with none."""
    dataset = open_dataset(small_voc, "val")
    config = small_config(max_windows=40, retrain_after=10, **changes)
    alone = train(make_run(tmp_path / "alone", dataset, config), Workers())
    run = make_run(tmp_path / "run", dataset, config)
    run.resources = Resources(torch.device("cpu"), map_budget=0)
    assert train(run, Several()) == alone
    assert not [*run.work.glob(PART.format("*", "*"))]


@pytest.mark.parametrize("stop", [5, 9, 13])
def test_parts_that_are_stopped_go_on_bit_for_bit(
    tmp_path, small_voc, make_run, small_config, monkeypatch, stop
):
    """Each part saves where it stands after every second photograph, in a file of its own."""
    dataset = open_dataset(small_voc, "val")
    config = small_config(max_windows=40, retrain_after=10)
    alone = train(make_run(tmp_path / "alone", dataset, config), Workers())
    monkeypatch.setattr(svms, "CHECKPOINT_EVERY", 2)
    mine = TrainSvms._mine_photograph
    mined = []

    def mine_or_stop(stage, *given):
        if len(mined) == stop:
            raise KeyboardInterrupt
        mined.append(stage.checkpoint)
        mine(stage, *given)

    with monkeypatch.context() as patch:
        patch.setattr(TrainSvms, "_mine_photograph", mine_or_stop)
        with pytest.raises(KeyboardInterrupt):
            train(make_run(tmp_path / "run", dataset, config), Several())
    run = make_run(tmp_path / "run", dataset, config)
    saved = {*run.work.glob(f"{PART.format('*', '*')}/{mined[-1].name}")}
    assert saved == {path for path, count in Counter(mined).items() if count >= 2}
    assert saved
    assert train(run, Several()) == alone


def test_parts_of_the_classes_go_on_as_they_were_begun(tmp_path, small_voc, make_run, small_config):
    """Other workers take up the parts that stand, even if they are fewer."""
    dataset = open_dataset(small_voc, "val")
    run = make_run(tmp_path / "run", dataset, small_config())
    table = WindowTable(dataset, [np.zeros((0, 4), np.float32)] * len(dataset))
    cache = run.open_cache(table)
    run.work.mkdir(parents=True)
    given = run.work, dataset, run.order, cache, None, run.config, 1.0
    stage = TrainSvms(*given, workers=Several())
    assert stage._count_parts() == 3
    (run.work / PART.format(1, 4)).mkdir()
    assert stage._count_parts() == 4
    assert TrainSvms(*given)._count_parts() == 1
