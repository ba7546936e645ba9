"""Who inside spp_detect may import whom; between the top-level packages see test_name_guard."""

from __future__ import annotations

import ast
from pathlib import Path

import spp_detect

HOME = Path(spp_detect.__file__).resolve().parent
TOP = ("cli", "__main__", "__init__")


def find_imports() -> dict[str, set[str]]:
    """Modules of spp_detect by name, each with those that it imports, wherever in it."""
    found = {}
    for path in HOME.rglob("*.py"):
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        own = {name.removeprefix("spp_detect.") for name in names if name.startswith("spp_detect.")}
        found[".".join(path.relative_to(HOME).with_suffix("").parts)] = own
    return found


def test_only_the_experiments_and_the_command_line_train():
    for module, imports in find_imports().items():
        if not module.startswith(("training", "experiments", *TOP)):
            assert not any(name.startswith("training") for name in imports), module


def test_only_the_command_line_experiments():
    for module, imports in find_imports().items():
        if not module.startswith(("experiments", *TOP)):
            assert not any(name.startswith("experiments") for name in imports), module


def test_reports_run_no_detector():
    allowed = ("report", "files", "inspection", "provenance", "progress", "ready_models")
    for module, imports in find_imports().items():
        if module.startswith("report"):
            assert all(name.startswith(allowed) for name in imports), (module, imports)


def test_no_circles():
    imports = find_imports()
    edges = {
        module: {name for name in own if name in imports and name != module}
        for module, own in imports.items()
        if not module.endswith("__init__")
    }
    while edges:
        ready = {module for module, own in edges.items() if not own & edges.keys()}
        assert ready, f"a circle among {sorted(edges)}"
        edges = {module: own for module, own in edges.items() if module not in ready}
