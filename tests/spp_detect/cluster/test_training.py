"""Training on a Ray cluster of two nodes on the loopback: one machine's model, whatever dies."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import spp_detect.cluster  # noqa: F401, before Ray

pytest.importorskip("ray")

from data import DataError
from spp_detect.cluster import workers as ray_workers
from spp_detect.cluster.nodes import ClusterError
from spp_detect.cluster.workers import RayWorkers, join_workers
from spp_detect.workers import Workers

PATIENCE = 300.0  # seconds
COMMAND = (sys.executable, "-m", "spp_detect", "train")
SETTINGS = (
    *("--split", "val"),  # 6 photographs
    *("--backbone", "small5", "--weights", "none", "--scales", "160", "--max-windows", "60"),
    *("--set", "retrain_after=10", "--set", "norm_photographs=8"),
)
MODEL = "model.safetensors"


@pytest.fixture(scope="module")
def cluster(make_cluster):
    return make_cluster()


def start_training(*words):
    given = [str(word) for word in (*COMMAND, *words)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(given, text=True, **quiet)


def finish(process):
    _, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told


def resume_until_done(*words):
    """Go on with a run; again where Ray ends the process by a failed check of its own (2.59)."""
    for _ in range(3):
        process = start_training(*words)
        _, told = process.communicate(timeout=PATIENCE)
        if process.returncode == 0:
            return
        assert "discovered a bug in Ray" in told, told
    pytest.fail("Ray failed three times")


@pytest.fixture(scope="module")
def alone(small_voc, tmp_path_factory):
    """The run of one machine, in one thread."""
    out = tmp_path_factory.mktemp("alone") / "run"
    words = small_voc, "--out", out, *SETTINGS, "--device", "cpu", "--threads", "1"
    finish(start_training(*words))
    return out


def read_stages(folder):
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["stage"] for line in lines]


def test_trains_one_machines_model(cluster, small_voc, alone, tmp_path):
    out = tmp_path / "run"
    finish(start_training(small_voc, "--out", out, *SETTINGS, "--ray", cluster.address))
    assert (out / MODEL).read_bytes() == (alone / MODEL).read_bytes()
    assert read_stages(out) == read_stages(alone)
    assert not [*out.glob("work/mining*"), *out.glob("work/positives*"), *out.glob("work/maps")]


def kill_workers(cluster):
    """Kill whoever works now; how many they were."""
    working = cluster.find_workers("do_work")
    for pid in working:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(working)


def lasts_until(process, out, sign):
    """Wait until a run has left a file; whether it goes on."""
    while process.poll() is None and not any(out.glob(sign)):
        time.sleep(0.002)
    return process.poll() is None


def test_neither_dead_workers_nor_a_dead_driver_change_the_model(
    cluster, small_voc, alone, tmp_path
):
    """Without kept maps what was mined lies in files, by which the mining is seen to have begun."""
    out = tmp_path / "run"
    words = "--map-budget", "0", "--ray", cluster.address
    driver = start_training(small_voc, "--out", out, *SETTINGS, *words)
    for sign in ("work/proposals/*.npz", "work/mining-*/negatives-*.bin"):
        assert lasts_until(driver, out, sign)
        assert kill_workers(cluster)
    if lasts_until(driver, out, "work/regression-000.safetensors"):
        driver.kill()
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    names = ("windows.bin", "feature_scale.json", "svms.safetensors", "regression-000.safetensors")
    stamps = {name: (out / "work" / name).stat().st_mtime_ns for name in names}
    resume_until_done("--out", out, "--resume", *words)
    assert (out / MODEL).read_bytes() == (alone / MODEL).read_bytes()
    assert {name: (out / "work" / name).stat().st_mtime_ns for name in names} == stamps
    assert not [*out.glob("work/mining*"), *out.rglob(".*-*")]


def square(numbers):
    for number in numbers:
        yield number**2


def spoil(numbers):
    raise DataError(f"photograph {max(numbers)}: spoilt")
    yield


def die(numbers):
    os._exit(1)


@pytest.fixture(scope="module")
def workers(cluster):
    with join_workers(cluster.address, 1) as joined:
        yield joined


def test_work_is_done_in_order_and_its_errors_are_its_own(workers):
    assert workers.count == 2
    assert list(workers.map(square, range(100))) == [i**2 for i in range(100)]
    assert list(workers.map(square, [])) == []
    with pytest.raises(DataError, match="photograph 0: spoilt"):
        list(workers.map(spoil, [0, 1]))
    assert type(pickle.loads(pickle.dumps(workers))) is Workers


def test_work_that_kills_its_workers_ends_in_one_line(workers, monkeypatch):
    monkeypatch.setattr(ray_workers, "MOST_DEATHS", 0)
    with pytest.raises(ClusterError, match="died again and again") as caught:
        list(workers.map(die, [0]))
    assert "go on with --resume" in str(caught.value) and "\n" not in str(caught.value)


def test_photographs_that_workers_do_not_see_are_told_in_one_line(
    workers, tmp_path, small_voc, monkeypatch
):
    """Each process has a folder of its own at /proc/self/cwd."""
    photographs = sorted(small_voc.glob("JPEGImages/*"))
    workers.check_files(photographs)
    monkeypatch.chdir(small_voc)
    hidden = Path("/proc/self/cwd/JPEGImages") / photographs[0].name
    with pytest.raises(ClusterError, match=f"does not find {hidden}.*at the same path") as caught:
        workers.check_files([photographs[1], hidden])
    assert "\n" not in str(caught.value)


def test_more_threads_than_any_machine_has_cores(workers):
    with pytest.raises(ClusterError, match="--threads 2: no machine"):
        RayWorkers(2)
