"""Who may import whom, and the guard of the generic names."""

from __future__ import annotations

import ast
import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

import spp_detect
from spp_detect.name_guard import ROOMS, check_rooms

HOME = Path(spp_detect.__file__).resolve().parents[1]
LEAVES = ("bbox_regression", "data", "eval", "proposals", "svm")


def imported_packages(source: str) -> set[str]:
    """Top-level names that a module imports, wherever in it; relative imports stay at home."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {a.value.split(".")[0] for a in node.args[:1] if isinstance(a, ast.Constant)}
    return found


def test_imported_packages():
    source = """
import numpy.linalg, eval.voc as e
from .near import far
def late():
    from data.labels import Labels
    importlib.import_module("svm.linear")
"""
    assert imported_packages(source) == {"numpy", "eval", "data", "svm"}


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_know_nothing_of_each_other(leaf):
    files = sorted((HOME / leaf).rglob("*.py"))
    assert files
    others = {*LEAVES, "spp_detect"} - {leaf}
    for file in files:
        foreign = imported_packages(file.read_text(encoding="utf-8")) & others
        assert not foreign, f"{file} imports {foreign}"


def test_relative_imports_stay_in_their_room():
    for leaf in LEAVES:
        for file in (HOME / leaf).rglob("*.py"):
            depth = len(file.relative_to(HOME).parts) - 1
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    assert node.level <= depth


def test_setup_cfg_lists_every_package():
    setup = configparser.ConfigParser()
    setup.read(HOME / "setup.cfg", encoding="utf-8")
    listed = setup["options"]["packages"].split()
    tops = [HOME / room for room in (*LEAVES, "spp_detect")]
    inits = [file for top in tops for file in top.rglob("__init__.py")]
    there = [".".join(file.parent.relative_to(HOME).parts) for file in inits]
    assert sorted(listed) == sorted(there)
    # Every folder of modules is a package.
    for top in tops:
        for file in top.rglob("*.py"):
            assert (file.parent / "__init__.py").is_file()


def test_the_guard_covers_all_leaves():
    assert sorted(ROOMS) == sorted(LEAVES)
    check_rooms()


def import_spp_detect(path: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """`import spp_detect` in a fresh interpreter, with `path` before all else.

    Only the guard runs to its end: the rest of the package, slow to import, is not reached or is
    cut off by exiting from within the first module after it.
    """
    code = (
        "import sys, types\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'spp_detect.config':\n"
        "            print('past the guard'); sys.exit(0)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "import spp_detect\n"
    )
    env = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{HOME}"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("room", LEAVES)
@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_foreign_room_is_named(tmp_path, room, kind):
    foreign = tmp_path / "site"
    taker = foreign / room if kind == "package" else foreign / f"{room}.py"
    file = taker / "__init__.py" if kind == "package" else taker
    file.parent.mkdir(parents=True)
    file.write_text("raise SystemExit('the foreign package was run')\n")
    done = import_spp_detect(foreign, tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: spp_detect needs its own package")
    assert repr(room) in last
    assert str(taker) in last
    assert "foreign package was run" not in done.stderr


def test_folders_that_are_no_packages_are_no_obstacle(tmp_path):
    """A script's own `data` folder of photographs has no __init__.py: Python goes on looking."""
    (tmp_path / "site" / "data").mkdir(parents=True)
    done = import_spp_detect(tmp_path / "site", tmp_path)
    assert (done.returncode, done.stdout) == (0, "past the guard\n"), done.stderr


def test_a_missing_room(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "svm" else real(name)
    )
    with pytest.raises(ImportError, match=r"needs its package 'svm' beside it in "):
        check_rooms()
