"""What describes a YOLO set: a .yaml as ultralytics and Roboflow write it, or lists of names.

classes.txt is Label Studio's, obj.names with obj.data darknet's and CVAT's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data.errors import problem, shorten
from data.folder import find_photographs
from data.labels import check_classes
from data.splits import ALIASES, PARTS, SPLITS

ABSENT = (None, "", "~", "null", "Null", "NULL")  # YAML's words for nothing, which are read as text
YAML_SUFFIXES = (".yaml", ".yml")
DARKNET = "obj.names"
DARKNET_SPLITS = {"valid": "val"}  # what it calls them


@dataclass(frozen=True)
class Description:
    """Class names, and where the splits lie where the file says so.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    names : tuple of str
        The classes, in the order of their numbers.
    folders : tuple of pathlib.Path
        Against which the splits' places are read, the first that has them.
    splits : dict of str to list of str
        Folders of photographs or .txt lists of them, by the split's name.
    """

    path: Path
    names: tuple[str, ...]
    folders: tuple[Path, ...]
    splits: dict[str, list[str]] = field(default_factory=dict)

    def list_split(self, split: str) -> list[Path] | None:
        """List a split's photographs; None where the file does not say where they lie."""
        for name in ALIASES.get(split, (split,)):
            if name in self.splits:
                found = [p for place in self.splits[name] for p in self._list(place)]
                return list(dict.fromkeys(found))
        parts = [self.list_split(part) for part in PARTS.get(split, ())]
        known = [part for part in parts if part is not None]
        return [path for part in known for path in part] if known else None

    def _list(self, place: str) -> list[Path]:
        found = self._find(place, self.folders)
        if found.is_dir():
            return find_photographs(found)
        folders = (found.parent, *self.folders)
        lines = read_text(found, "a list of photographs").splitlines()
        # A photograph that is missing is told where it is read.
        return [
            self._seek(line.strip(), folders) or folders[0] / line.strip()
            for line in lines
            if line.strip()
        ]

    def _find(self, place: str, folders: Sequence[Path]) -> Path:
        found = self._seek(place, folders)
        if found is None:
            told = f"names {place}, which is not there; expected it in {folders[0]}"
            raise problem(self.path, told)
        return found

    def _seek(self, place: str, folders: Sequence[Path]) -> Path | None:
        # Roboflow writes ../train/images of a folder beside the file, CVAT data/ of its own folder.
        for folder in folders:
            for path in (folder / place.removeprefix(start) for start in ("", "../", "data/")):
                if path.exists():
                    return path
        return None


def find_description(root: Path) -> Path | None:
    """Find what describes a YOLO folder: a file of a usual name, or its only .yaml with names."""
    for path in (root / name for name in ("data.yaml", "classes.txt", DARKNET)):
        if path.is_file():
            return path
    files = sorted(p for p in root.iterdir() if p.suffix.lower() in YAML_SUFFIXES and p.is_file())
    described = [path for path in files if _has_names(path)]
    if len(described) > 1:
        names = " and ".join(path.name for path in described[:2])
        raise problem(root, f"{names} both have class names; expected one, or give its path")
    return described[0] if described else None


def read_description(path: Path) -> Description:
    """Read class names and splits.

    Raises
    ------
    DataError
        For a file that cannot be read or is no such description.
    """
    text = read_text(path, "class names")
    if path.suffix.lower() not in YAML_SUFFIXES:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        splits = _read_darknet(path.with_suffix(".data")) if path.name == DARKNET else {}
        return Description(path, check_classes(str(path), lines), (path.parent,), splits)
    try:
        content = _load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise problem(path, f"broken YAML ({error}); expected class names") from error
    if not isinstance(content, dict) or "names" not in content:
        raise problem(path, "has no entry 'names'; expected the classes there")
    names = _read_names(path, content["names"])
    base = _read_places(path, "path", content.get("path"))[:1]
    folders = (*(path.parent / one for one in base), path.parent)
    keys = ("train", "val", "valid", "test", "trainval")
    splits = {key: _read_places(path, key, content.get(key)) for key in keys}
    return Description(path, names, folders, {k: places for k, places in splits.items() if places})


def _read_darknet(path: Path) -> dict[str, list[str]]:
    """Read where the splits lie from lines as "train = data/train.txt"; none without the file."""
    if not path.is_file():
        return {}
    lines = [line.partition("=") for line in read_text(path, "darknet's data").splitlines()]
    given = {key.strip(): value.strip() for key, equals, value in lines if equals}
    named = {DARKNET_SPLITS.get(key, key): value for key, value in given.items()}
    return {key: [named[key]] for key in SPLITS if named.get(key)}


def read_text(path: Path, expected: str) -> str:
    """Read a text file; DataError says what was expected there."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise problem(path, f"cannot be read ({error}); expected {expected}") from error


def _load(text: str) -> Any:
    """Load a YAML file with all scalars as text: a class called 1.10, or no, keeps its name."""
    return yaml.load(text, yaml.BaseLoader)


def _read_names(path: Path, names: Any) -> tuple[str, ...]:
    if isinstance(names, dict):
        if set(names) != set(map(str, range(len(names)))):
            numbers = shorten([str(number) for number in names])
            raise problem(path, f"names numbered {numbers}; expected 0, 1, 2 and so on")
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise problem(path, "names: expected a list of names, or a map of them from 0")
    return check_classes(str(path), names)


def _read_places(path: Path, key: str, value: Any) -> list[str]:
    places = value if isinstance(value, list) else [value] if value not in ABSENT else []
    if not all(isinstance(place, str) and place for place in places):
        raise problem(path, f"{key}: expected a path or a list of them")
    return places


def _has_names(path: Path) -> bool:
    try:
        content = _load(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return False
    return isinstance(content, dict) and "names" in content
