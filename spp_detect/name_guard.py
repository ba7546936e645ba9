"""Guard of the generic top-level names that the packages beside spp_detect bear."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

PACKAGES = ("bbox_regression", "data", "eval", "proposals", "svm")
HOME = Path(__file__).resolve().parents[1]


def claim_packages() -> None:
    """See to it that `import data` and the like find the packages beside spp_detect.

    A folder of that name without `__init__.py`, such as `data` beside a script, is no obstacle: for
    Python it is a package of the kind that has no code of its own, and an editable installation is
    asked only after it. Modules in such a folder can still be imported.

    Raises
    ------
    ImportError
        Where a package is missing, or a foreign package or module has its name; one line.
    """
    for name in PACKAGES:
        spec = _find_spec(name)
        if spec is not None and not _is_ours(spec):
            if spec.origin is not None or spec.submodule_search_locations is None:
                raise ImportError(
                    f"spp_detect needs its own package {name!r}, but {_locate(spec)} takes that "
                    "name: rename it, or start from another folder"
                )
            _import_ours(name, others=list(spec.submodule_search_locations))
        elif spec is None:
            raise ImportError(f"spp_detect needs its package {name!r} beside it in {HOME}")


def _find_spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ValueError:  # a module made by hand, without a spec, has the name
        return ModuleSpec(name, None, origin="a module made by the program")


def _is_ours(spec: ModuleSpec) -> bool:
    return spec.origin is not None and Path(spec.origin).resolve().parent == HOME / spec.name


def _locate(spec: ModuleSpec) -> str:
    """A foreign package's folder, a module's file."""
    return next(iter(spec.submodule_search_locations or ()), spec.origin or spec.name)


def _import_ours(name: str, others: list[str]) -> None:
    """Import a package from beside spp_detect; modules that it lacks are found in `others`."""
    folder = HOME / name
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not (folder / "__init__.py").is_file():
        raise ImportError(f"spp_detect needs its package {name!r} beside it in {HOME}")
    package = importlib.util.module_from_spec(spec)
    sys.modules[name] = package
    spec.loader.exec_module(package)
    package.__path__.extend(others)
