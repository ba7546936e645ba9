"""`make gpu` as far as that goes without a GPU: what it installs, runs and lets travel."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "on_gpu.py"


@pytest.fixture
def on_gpu():
    spec = importlib.util.spec_from_file_location("on_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["on_gpu"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["on_gpu"]


def test_all_that_is_asked_for_is_found_here(on_gpu):
    requirements = on_gpu.read_requirements()
    assert len(requirements) > 15 and not on_gpu.find_missing(requirements)


def test_what_is_missing_is_installed_beside_torch_as_it_is(on_gpu, monkeypatch, tmp_path):
    assert on_gpu.find_missing(["nowhere-to-be-found>=2", "torch>=2.5"]) == [
        "nowhere-to-be-found>=2"
    ]
    commands = []

    def look(command, check):
        commands.append(command)
        constraints = Path(command[command.index("-c") + 1]).read_text()
        import torch

        assert f"torch=={torch.__version__}" in constraints.splitlines()

    monkeypatch.setattr(subprocess, "run", look)
    on_gpu.install(["nowhere>=2"], None)
    on_gpu.install(["nowhere>=2"], tmp_path)
    assert commands[0][-1] == "nowhere>=2" and "--no-index" not in commands[0]
    assert "--no-index" in commands[1] and str(tmp_path) in commands[1]


def test_without_a_gpu_one_line_says_so(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, SCRIPT, "voc", "weights", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "no GPU" in done.stderr and len(done.stderr.splitlines()) == 1


def test_parts_are_commands_that_there_are(on_gpu, tmp_path):
    from spp_detect.cli import app

    for part in on_gpu.list_parts("voc", "weights", "runs/gpu", tmp_path):
        words = part.command
        if "spp_detect" in words:
            name, *arguments = words[words.index("spp_detect") + 1 :]
            app.commands[name].make_context(name, list(arguments))
        elif words[1].endswith(".py"):
            done = subprocess.run([words[0], words[1], "--help"], capture_output=True, text=True)
            assert done.returncode == 0 and "--out" in done.stdout


def test_a_part_that_fails_or_hangs_is_recorded(on_gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "PART_SECONDS", 1)
    run = [sys.executable, "-c"]
    for name, code, status in (
        ("fine", "print('done')", 0),
        ("failing", "raise SystemExit(3)", 3),
        ("hanging", "import time; time.sleep(60)", "stopped after 1 seconds"),
    ):
        assert on_gpu.do_part(on_gpu.Part(name, [*run, code]), tmp_path)["status"] == status
    assert (tmp_path / "fine.log").read_text() == "done\n"


def test_what_travels_is_a_set_and_small(mini_voc, shared_weights, tmp_path):
    weights = shared_weights / "resnet18_conv1_layer3.safetensors"
    command = [sys.executable, SCRIPT, mini_voc, weights, "--pack", tmp_path / "set"]
    subprocess.run(command, check=True, capture_output=True)
    size = sum(path.stat().st_size for path in (tmp_path / "set").rglob("*") if path.is_file())
    assert size <= 64e6
    from data import open_dataset

    for split, count in (("trainval", 120), ("test", 120)):
        assert len(open_dataset(tmp_path / "set" / "VOC", split)) == count
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["VOC", weights.name]
