"""Whoever does a stage's work, and however it is divided, the model is the same."""

from __future__ import annotations

import torch
from joblib.externals import cloudpickle

from spp_detect.training.feature_cache import Resources
from spp_detect.training.svms import PART, TrainSvms
from spp_detect.workers import Workers


class Several(Workers):
    """Three who know nothing of each other: each gets a copy of the work, and two items of it."""

    @property
    def count(self):
        return 3

    def __reduce__(self):
        return Workers, ()

    def map(self, work, items):
        sent = cloudpickle.dumps(work)
        for start in range(0, len(items), 2):
            yield from list(cloudpickle.loads(sent)(items[start : start + 2]))


def train(run, workers):
    run.workers = workers
    run.train()
    return (run.folder / "model.safetensors").read_bytes()


def test_divided_work_makes_the_same_model(
    tmp_path, small_set, make_run, small_config, small_model
):
    run = make_run(tmp_path / "run", small_set, small_config())
    run.resources = Resources(torch.device("cpu"), map_budget=0)  # no maps are kept
    assert train(run, Several()) == (small_model / "model.safetensors").read_bytes()
    assert not [*run.work.glob(PART.format("*", "*"))]


def test_divided_work_takes_tuned_layers_along(tmp_path, small_set, make_run, small_config):
    settings = {"feature": "fc7", "fc_width": 8, "finetune_iterations": 2, "max_windows": 40}
    config = small_config(**settings, retrain_after=10)
    models = [
        train(make_run(tmp_path / type(one).__name__, small_set, config), one)
        for one in (Workers(), Several())
    ]
    assert models[0] == models[1]


def test_parts_of_the_classes_go_on_as_they_were_begun(tmp_path, small_set, make_run, small_config):
    """Other workers take up the parts that stand, even if they are fewer."""
    run = make_run(tmp_path / "run", small_set, small_config())
    run.begin()
    cache = run.open_cache(run.propose())
    given = run.work, small_set, run.order, cache, None, run.config, 1.0
    stage = TrainSvms(*given, workers=Several())
    assert stage._count_parts() == 3
    (run.work / PART.format(1, 4)).mkdir()
    assert stage._count_parts() == 4
    assert TrainSvms(*given)._count_parts() == 1
