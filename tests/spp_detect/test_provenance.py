"""What a measured number is recorded with."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from spp_detect import provenance
from spp_detect.provenance import ROOT, find_commit, record_run


def test_record_says_where_a_number_comes_from():
    record = record_run()
    assert {"command", "commit", "versions", "machine", "peak_memory_gb"} <= set(record)
    assert record["versions"]["torch"]
    assert 0.01 < record["peak_memory_gb"] < 1000


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/usr/bin/spp-detect", "tables", "voc"], "spp-detect tables voc"),
        (["/a/spp_detect/__main__.py", "demo"], "python -m spp_detect demo"),
        ([f"{ROOT}/benchmarks/batching.py", "1"], "python benchmarks/batching.py 1"),
        (["/elsewhere/mine.py"], "python mine.py"),
        (["spp-detect", "--columns", "1 scale,R-CNN"], "spp-detect --columns '1 scale,R-CNN'"),
    ],
)
def test_recorded_commands_can_be_typed_again(monkeypatch, arguments, command):
    monkeypatch.setattr(sys, "argv", arguments)
    assert record_run()["command"] == command


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def make_repository(folder: Path, name: str) -> str:
    """A repository of one commit with a setup.cfg; its commit."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "setup.cfg").write_text(f"[metadata]\nname = {name}\n")
    (folder / "code.py").write_text("")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(autouse=True)
def forget_commit():
    yield
    find_commit.cache_clear()


def find_at(monkeypatch, root: Path) -> str | None:
    monkeypatch.setattr(provenance, "ROOT", root.resolve())
    find_commit.cache_clear()
    return find_commit()


def test_the_commit_of_our_own_checkout(tmp_path, monkeypatch):
    commit = make_repository(tmp_path / "ours", "spp-detect")
    assert find_at(monkeypatch, tmp_path / "ours") == commit[:12]
    (tmp_path / "ours" / "code.py").write_text("changed = True\n")
    assert find_commit() == commit[:12], "not the state in which the program started"
    assert find_at(monkeypatch, tmp_path / "ours") == commit[:12] + "+"


@pytest.mark.parametrize("place", [".", "venv/lib/site-packages"])
@pytest.mark.parametrize("with_setup", [False, True])
def test_not_the_commit_of_a_repository_around(tmp_path, monkeypatch, place, with_setup):
    make_repository(tmp_path, "theirs")
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    if with_setup and place != ".":
        (folder / "setup.cfg").write_text("[metadata]\nname = spp-detect\n")
    assert find_at(monkeypatch, folder) is None


def test_git_hooks_do_not_lead_elsewhere(tmp_path, monkeypatch):
    make_repository(tmp_path / "theirs", "theirs")
    commit = make_repository(tmp_path / "ours", "spp-detect")
    (tmp_path / "theirs" / "more").write_text("")
    git(tmp_path / "theirs", "add", ".")
    git(tmp_path / "theirs", "commit", "--quiet", "--message", "two")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "theirs" / ".git"))
    assert find_at(monkeypatch, tmp_path / "ours") == commit[:12]


@pytest.mark.parametrize("setup", [None, "", "no section", "[metadata]\n"])
def test_no_checkout_at_all(tmp_path, monkeypatch, setup):
    if setup is not None:
        (tmp_path / "setup.cfg").write_text(setup)
    assert find_at(monkeypatch, tmp_path) is None


def test_without_git(tmp_path, monkeypatch):
    make_repository(tmp_path / "ours", "spp-detect")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_at(monkeypatch, tmp_path / "ours") is None


def test_a_library_without_metadata(monkeypatch):
    def find_version(name):
        if name == "spp-detect":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(provenance, "version", find_version)
    versions = record_run()["versions"]
    assert versions["spp-detect"] is None
    assert versions["torch"] == version("torch")


def test_no_process_is_started_by_import():
    code = """
import sys
import torch  # asks ldconfig for a library
sys.addaudithook(lambda event, arguments: event == "subprocess.Popen" and print(event, arguments))
import spp_detect.provenance
import subprocess
subprocess.run(["true"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.splitlines()
    assert "'true'" in line
