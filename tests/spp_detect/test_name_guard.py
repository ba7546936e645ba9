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
from spp_detect.name_guard import PACKAGES, claim_packages

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


def test_relative_imports_stay_in_their_package():
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
    tops = [HOME / package for package in (*LEAVES, "spp_detect")]
    inits = [file for top in tops for file in top.rglob("__init__.py")]
    there = [".".join(file.parent.relative_to(HOME).parts) for file in inits]
    assert sorted(listed) == sorted(there)
    # Every folder of modules is a package.
    for top in tops:
        for file in top.rglob("*.py"):
            assert (file.parent / "__init__.py").is_file()


def test_the_guard_covers_all_leaves():
    assert sorted(PACKAGES) == sorted(LEAVES)
    claim_packages()


PAST = "import spp_detect; print('past the guard')"
# What `pip install --editable` leaves: a finder that is asked after all folders of the path.
EDITABLE = f"""
import sys
from importlib.util import spec_from_file_location
from pathlib import Path
class Editable:
    @staticmethod
    def find_spec(name, path=None, target=None):
        init = Path({str(HOME)!r}) / name / '__init__.py'
        return spec_from_file_location(name, init) if init.is_file() else None
sys.meta_path[:] = [one for one in sys.meta_path if 'ditable' not in repr(one)] + [Editable]
"""


def run_python(code: str, *path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with the folders `path` before all else."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))},
        cwd=path[0],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("name", LEAVES)
@pytest.mark.parametrize("kind", ["package", "module"])
def test_a_foreign_package_is_named(tmp_path, name, kind):
    foreign = tmp_path / "site"
    taker = foreign / name if kind == "package" else foreign / f"{name}.py"
    file = taker / "__init__.py" if kind == "package" else taker
    file.parent.mkdir(parents=True)
    file.write_text("raise SystemExit('the foreign package was run')\n")
    done = run_python(PAST, foreign, HOME)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: spp_detect needs its own package")
    assert repr(name) in last
    assert str(taker) in last
    assert "foreign package was run" not in done.stderr


@pytest.mark.parametrize("installed", ["beside", "editable"])
def test_a_folder_without_code_is_no_obstacle(tmp_path, installed):
    """A script's own `data` folder of photographs has no __init__.py."""
    script = tmp_path / "work"
    (script / "data").mkdir(parents=True)
    (script / "eval" / "inner").mkdir(parents=True)
    path = (script, HOME) if installed == "beside" else (script,)
    finder = EDITABLE if installed == "editable" else ""
    done = run_python(f"{finder}{PAST}", *path)
    assert (done.returncode, done.stdout) == (0, "past the guard\n"), done.stderr


def test_the_folder_in_the_way_does_not_win(tmp_path):
    """Ours are imported, and modules of a folder without __init__.py are found as before."""
    for name in LEAVES:
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "helper.py").write_text("from data.helper2 import answer\n")
    (tmp_path / "data" / "helper2.py").write_text("answer = 42\n")
    code = f"""{EDITABLE}
import importlib
from spp_detect import name_guard
from spp_detect import Detector
for name in {LEAVES}:
    print(importlib.import_module(name).__file__)
from data import read_photo
from data.helper import answer
print(answer)
"""
    for before in ("", "import data.helper2, eval\n"):
        done = run_python(before + code, tmp_path)
        expected = [str(HOME / name / "__init__.py") for name in LEAVES]
        assert done.stdout.split() == [*expected, "42"], done.stderr


def test_a_foreign_package_is_named_in_an_editable_installation(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "eval.py").write_text("")
    done = run_python(f"{EDITABLE}import spp_detect", tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: spp_detect needs its own package 'eval'")
    assert str(tmp_path / "eval.py") in last


def test_a_module_without_a_spec_is_named():
    code = "import sys, types; sys.modules['svm'] = types.ModuleType('svm')\nimport spp_detect"
    done = run_python(code, HOME)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: spp_detect needs its own package 'svm'")


def test_a_missing_package(monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "svm" else real(name)
    )
    with pytest.raises(ImportError, match=r"needs its package 'svm' beside it in "):
        claim_packages()


def test_a_missing_package_with_a_folder_in_the_way(tmp_path, monkeypatch):
    (tmp_path / "svm").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr("spp_detect.name_guard.PACKAGES", ("svm",))
    monkeypatch.setattr("spp_detect.name_guard.HOME", tmp_path / "elsewhere")
    monkeypatch.delitem(sys.modules, "svm", raising=False)
    with pytest.raises(ImportError, match=r"needs its package 'svm' beside it in "):
        claim_packages()
