"""Two processes that torchrun starts fine-tune as one does."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spp_detect.training.run import check_team
from spp_detect.training.run_folder import TrainingError
from spp_detect.training.team import Team, join_team

ITERATIONS = 8
# The program as it is, but for dropout, which is drawn apart by each process.
PROGRAM = """
import os, sys
from torch import nn
from spp_detect import cli
from spp_detect.training.finetuning import FineTuner

nn.Dropout.forward = lambda self, values: values
learn = FineTuner.learn

def learn_or_die(self, step, batch):
    if str(step) == os.environ.get("DIE_AT"):
        os._exit(9)
    return learn(self, step, batch)

FineTuner.learn = learn_or_die
cli.main()
"""
TRUNK = ("train_from=conv4", "feature=pool5", "finetune_boxes=true")
FC = ("feature=fc7", "fc_width=40", "fc_start=random", "finetune_standardised=true")


def make_words(voc, out, changes):
    """The words of a training that is quick."""
    words = ["train", voc, "--out", out, "--backbone", "small5", "--weights", "none"]
    words += ["--scales", "160", "--max-windows", "150", "--device", "cpu", "--threads", "1"]
    changes = (*changes, "precision=float32", "finetune_rates=0.02,0.01")
    sets = [word for change in changes for word in ("--set", change)]
    return [*words, "--finetune", ITERATIONS, *sets]


@pytest.fixture(scope="module")
def run_program(tmp_path_factory):
    """Runs the program in some processes: status and stderr."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)

    def run(processes, *words, **environment):
        command = [sys.executable]
        if processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={processes}"]
        command += [str(program), *map(str, words)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        kept = {"capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run(command, env=environment, check=False, **kept)
        return done.returncode, done.stderr

    return run


@pytest.fixture(scope="module")
def alone(run_program, small_voc, tmp_path_factory):
    """Runs in which one process tuned the trunk, and the fc layers."""
    folder = tmp_path_factory.mktemp("alone")
    for changes in (TRUNK, FC):
        status, errors = run_program(1, *make_words(small_voc, folder / changes[0], changes))
        assert status == 0, errors
    return folder


def read_curve(out):
    rows = json.loads((out / "finetuning.json").read_text())
    return np.array([list(row.values()) for row in rows])


def check_same(found, wanted):
    """The same curve and the same layers, but for the order in which numbers were added."""
    curve = read_curve(wanted)
    assert curve[0, 2] - curve[-1, 2] > 0.02  # it learnt
    np.testing.assert_allclose(read_curve(found), curve, rtol=1e-4)
    layers, others = (load_file(one / "work" / "tuned.safetensors") for one in (found, wanted))
    start = load_file(wanted / "work" / "trunk.safetensors")
    for name, tensor in layers.items():
        np.testing.assert_allclose(tensor, others[name], rtol=1e-3, atol=1e-5, err_msg=name)
    learnt = [name for name in layers if name.removeprefix("tail.") in start]
    assert all(not (layers[one] == start[one.removeprefix("tail.")]).all() for one in learnt)


@pytest.mark.parametrize("changes", [TRUNK, FC], ids=["trunk", "fc"])
def test_two_processes_learn_as_one_does(run_program, small_voc, alone, tmp_path, changes):
    one, two = alone / changes[0], tmp_path / "two"
    status, errors = run_program(2, *make_words(small_voc, two, changes))
    assert status == 0, errors
    check_same(two, one)
    assert (two / "metrics.json").is_file()
    history = (two / "history.jsonl").read_text().splitlines()
    assert len(history) == len((one / "history.jsonl").read_text().splitlines())


def test_what_two_began_one_ends_and_then_nobody_waits(run_program, small_voc, alone, tmp_path):
    two = tmp_path / "two"
    assert run_program(2, *make_words(small_voc, two, TRUNK), DIE_AT="5")[0] != 0
    assert (two / "work" / "finetuning.safetensors").is_file()
    for processes in (1, 2):
        status, errors = run_program(processes, "train", "--out", two, "--resume")
        assert status == 0, errors
    check_same(two, alone / TRUNK[0])


def test_who_helps_with_other_windows_is_told(make_run, small_set, small_config, tmp_path):
    """As where a photograph cannot be read on one machine."""
    config = small_config(train_from="conv5", finetune_iterations=4, feature="pool5")
    run = make_run(tmp_path / "run", small_set, config)
    run.begin()
    run.propose()
    photographs = list(small_set.photographs)
    photographs[3] = replace(photographs[3], labels=photographs[4].labels)
    other = make_run(tmp_path / "run", replace(small_set, photographs=tuple(photographs)), config)
    with pytest.raises(TrainingError, match=r"windows\.json: the run was"):
        other.help()


def test_no_more_processes_than_a_batch_has_photographs(small_config):
    training = small_config(train_from="conv5", finetune_iterations=4, feature="pool5").training
    check_team(training, Team(0, 2))
    told = "fine-tuning: 3 processes; expected at most 2, as many as a batch has photographs"
    with pytest.raises(TrainingError, match=told):
        check_team(training, Team(0, 3))
    check_team(small_config().training, Team(0, 3))  # which has nothing to tune
    check_team(small_config(finetune_iterations=4, feature="fc7").training, Team(0, 3))


def test_each_has_its_part():
    parts = [Team(rank, 3).share(list("abcdefgh")) for rank in range(3)]
    assert parts == [["a", "d", "g"], ["b", "e", "h"], ["c", "f"]]
    assert [Team(rank, 3).leads for rank in range(3)] == [True, False, False]
    assert Team().share("abc") == ["a", "b", "c"]


def test_more_processes_than_gpus_are_told(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with (
        pytest.raises(TrainingError, match=r"process 2 of this machine: it has 1 GPUs; expected"),
        join_team(torch.device("cuda")),
    ):
        pass
