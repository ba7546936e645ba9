"""Two processes that torchrun starts fine-tune as one does."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.torch import load_file

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


@pytest.fixture
def run_program(tmp_path):
    """Runs the program in some processes: status and stderr."""
    program = tmp_path / "program.py"
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
def test_two_processes_learn_as_one_does(run_program, small_voc, tmp_path, changes):
    one, two = tmp_path / "one", tmp_path / "two"
    for processes, out in ((1, one), (2, two)):
        status, errors = run_program(processes, *make_words(small_voc, out, changes))
        assert status == 0, errors
    check_same(two, one)
    assert (two / "metrics.json").is_file()
    history = (two / "history.jsonl").read_text().splitlines()
    assert len(history) == len((one / "history.jsonl").read_text().splitlines())
    # Nothing is left to help with.
    status, errors = run_program(2, "train", "--out", two, "--resume")
    assert status == 0, errors


def test_what_two_began_one_ends(run_program, small_voc, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert run_program(1, *make_words(small_voc, one, TRUNK))[0] == 0
    assert run_program(2, *make_words(small_voc, two, TRUNK), DIE_AT="5")[0] != 0
    assert (two / "work" / "finetuning.safetensors").is_file()
    assert run_program(1, "train", "--out", two, "--resume")[0] == 0
    check_same(two, one)


def test_more_processes_than_photographs_are_refused(run_program, small_voc, tmp_path):
    status, errors = run_program(3, *make_words(small_voc, tmp_path / "out", TRUNK))
    assert status != 0
    told = "fine-tuning: 3 processes; expected at most 2, as many as a batch has photographs"
    assert f"spp-detect: error: {told}" in errors
