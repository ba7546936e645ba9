"""Docstrings: their examples run, and those of public names say what is taken in one dialect."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import spp_detect
from spp_detect import Detector, make_config
from spp_detect.backbones import build_backbone
from spp_detect.extractors import make_extractor
from spp_detect.heads import Heads

ROOT = Path(__file__).resolve().parents[1]
LEAVES = ("bbox_regression", "data", "eval", "proposals", "svm")
PACKAGES = (*LEAVES, "spp_detect")


def list_modules(package: str) -> list[str]:
    """Name a package's modules but `__main__`, whose import starts the program."""
    folder = str(ROOT / package)
    inside = [m.name for m in pkgutil.walk_packages([folder], f"{package}.")]
    return [package, *(name for name in inside if not name.endswith(".__main__"))]


MODULES = [module for package in PACKAGES for module in list_modules(package)]


@pytest.fixture(scope="module")
def example_files(tmp_path_factory) -> Path:
    """What the examples open: two photographs, and a model that takes everything for a dog."""
    root = tmp_path_factory.mktemp("examples")
    (root / "photographs").mkdir()
    random = np.random.default_rng(0)
    for name in ("dog", "grass"):
        coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
        coarse.resize((160, 120), Image.Resampling.NEAREST).save(root / f"photographs/{name}.jpg")
    config = make_config(backbone="small5", scales=(160,))
    extractor = make_extractor(build_backbone("small5"), config, torch.device("cpu"))
    heads = Heads.empty(2, extractor.length, extractor.length)
    heads.svm_intercept[:] = torch.tensor([-2.0, 0.5])
    Detector(config, ("cat", "dog"), extractor, heads).save(root / "runs/animals")
    return root


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, example_files, monkeypatch):
    monkeypatch.chdir(example_files)
    module = importlib.import_module(name)
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for test in finder.find(module) if test.examples]
    runner = doctest.DocTestRunner(verbose=False)
    output: list[str] = []
    for test in examples:
        runner.run(test, out=output.append)
    assert not runner.failures, "".join(output)
    # No example is where doctest does not look.
    written = Path(module.__file__).read_text(encoding="utf-8").count(">>>")
    assert sum(len(test.examples) for test in examples) == written


def list_public() -> list[tuple[str, str]]:
    pairs = [(p, name) for p in PACKAGES for name in importlib.import_module(p).__all__]
    return [(p, name) for p, name in pairs if callable(getattr(importlib.import_module(p), name))]


@pytest.mark.parametrize("name", spp_detect.__all__)
def test_what_spp_detect_exports_has_an_example(name):
    assert ">>> " in getattr(spp_detect, name).__doc__


@pytest.mark.parametrize(("package", "name"), list_public())
def test_public_names_are_documented(package, name):
    public = getattr(importlib.import_module(package), name)
    documented = [(name, public)]
    if isinstance(public, type):
        documented += [
            (f"{name}.{key}", value)
            for key, value in vars(public).items()
            if not key.startswith("_") and (callable(value) or isinstance(value, property))
        ]
    # A dataclass without a docstring gets its signature as one.
    lacking = [
        key
        for key, value in documented
        if not (value.__doc__ or "").strip() or value.__doc__.startswith(f"{name}(")
    ]
    assert not lacking


def list_docstrings(path: Path) -> list[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return [(node.name, ast.get_docstring(node) or "") for node in nodes]


ENTRIES = {
    "Parameters": r"\*{0,2}\w+(, \w+)* : \S.*",
    "Attributes": r"\w+(, \w+)* : \S.*",
    "Returns": r"\S.*",
    "Yields": r"\S.*",
    "Raises": r"[\w.]+",
}


def find_faults(docstring: str) -> list[str]:
    """Entries of a section that are not of numpydoc's form, the description indented below."""
    faults = []
    for title, body in re.findall(
        r"^(\w+)\n-{3,}\n(.*?)(?=^\w+\n-{3,}$|\Z)", docstring, re.M | re.S
    ):
        lines = [line for line in body.splitlines() if line]
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            if title in ENTRIES and not line.startswith(" "):
                whole = re.fullmatch(ENTRIES[title], line) and not line.endswith(".")
                if not whole or not below.startswith("    "):
                    faults.append(f"{title}: {line}")
    return faults


@pytest.mark.parametrize("name", MODULES)
def test_sections_are_numpydocs(name):
    path = Path(importlib.import_module(name).__file__)
    found = [(owner, find_faults(text)) for owner, text in list_docstrings(path)]
    assert not [(owner, faults) for owner, faults in found if faults]


def test_the_check_of_sections_finds_the_compact_dialect():
    compact = "Do.\n\nParameters\n----------\nc : weight of the losses.\nd : int\n    Sides.\n"
    assert find_faults(compact) == ["Parameters: c : weight of the losses."]
    assert find_faults("Do.\n\nReturns\n-------\nfloat32 (N, 4), the boxes.\n")
    assert find_faults("Do.\n\nRaises\n------\nDataError\n    For no photograph.\n") == []


def test_no_package_is_forgotten():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(PACKAGES)
