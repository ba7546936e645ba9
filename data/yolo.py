"""YOLO folders: images, labels and the class names in classes.txt or data.yaml."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from data.errors import problem, shorten
from data.folder import is_photograph
from data.labels import (
    LabelledObject,
    LabelledSet,
    Record,
    build_set,
    check_classes,
    check_corners,
    clip_box,
)
from data.photo import photo_size

_FLOW_ITEM = re.compile(r"""(?:"[^"]*"|'[^']*'|[^,"'\[\]{}])+""")
_ITEM = re.compile(r"""\s*(?:-\s|(?P<key>\d+)\s*:\s)?\s*(?P<name>"[^"]*"|'[^']*'|.*?)\s*""")


def read_yolo(root: Path, split: str, classes: Sequence[str] | None, max_side: int) -> LabelledSet:
    """Read one split of a YOLO folder: images/SPLIT, SPLIT/images or, unsplit, images.

    A photograph without a label file has no objects, as is YOLO's custom.

    Parameters
    ----------
    root : pathlib.Path
        Holds the folders and classes.txt or data.yaml.
    split : str
        The split's name.
    classes : sequence of str or None
        Class names, whose order is kept; None takes those of classes.txt or
        data.yaml in their order.
    max_side : int
        Widest and highest photograph accepted, in pixels.

    Returns
    -------
    LabelledSet
        Its photographs in the order of their files' names.

    Raises
    ------
    DataError
        A file is missing or broken, or holds what cannot be; see `open_dataset`.
    """
    names = _read_names(root)
    images, labels = _find_folders(root, split)
    records = []
    for photo in sorted(path for path in images.iterdir() if is_photograph(path)):
        width, height = photo_size(photo, max_side)
        source = labels / f"{photo.stem}.txt"
        objects = _read_objects(source, names, width, height) if source.exists() else []
        records.append(Record(photo.stem, photo, source, width, height, objects))
    wanted = names if classes is None else check_classes("classes", classes)
    return build_set(root, split, wanted, records)


def _find_folders(root: Path, split: str) -> tuple[Path, Path]:
    pairs = [
        (root / "images" / split, root / "labels" / split),
        (root / split / "images", root / split / "labels"),
        (root / "images", root / "labels"),
    ]
    for images, labels in pairs:
        if images.is_dir() and any(is_photograph(path) for path in images.iterdir()):
            if not labels.is_dir():
                raise problem(labels, f"no such folder; expected the labels of {images}")
            return images, labels
    there = sorted(p.name for p in (root / "images").glob("*") if p.is_dir())
    raise problem(
        root / "images" / split,
        f"no photographs of split {split!r}; there are: {shorten(there) or 'no splits'}",
    )


def _read_text(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise problem(path, f"cannot be read ({error}); expected {expected}") from error


def _read_names(root: Path) -> tuple[str, ...]:
    for path in (root / "classes.txt", root / "data.yaml"):
        if path.is_file():
            text = _read_text(path, "class names")
            lines = text.splitlines()
            names = _parse_yaml_names(path, lines) if path.suffix == ".yaml" else lines
            return check_classes(str(path), [name.strip() for name in names if name.strip()])
    raise problem(root, "no class names; expected classes.txt or data.yaml in it")


def _parse_yaml_names(path: Path, lines: list[str]) -> list[str]:
    """Return the entry `names` of a YAML file: a list or a map from 0, in a line or in a block."""
    lines = [re.sub(r"(^|\s)#.*", "", line) for line in lines]
    starts = [i for i, line in enumerate(lines) if re.match(r"names\s*:", line)]
    if len(starts) != 1:
        raise problem(path, "expected one entry 'names'")
    head, rest = lines[starts[0]].split(":", 1)[1].strip(), lines[starts[0] + 1 :]
    if head[:1] in ("[", "{"):
        inside = re.split(r"[\]}]", "\n".join([head[1:], *rest]))[0].replace("\n", " ")
        items = [item for item in _FLOW_ITEM.findall(inside) if item.strip()]
    else:
        rest = [line for line in rest if line.strip()]
        ends = (i for i, line in enumerate(rest) if not line.startswith((" ", "\t", "-")))
        items = rest[: next(ends, len(rest))]
    matches = [match for match in map(_ITEM.fullmatch, items) if match]
    keys = [match["key"] for match in matches]
    if any(keys) and keys != [str(i) for i in range(len(keys))]:
        raise problem(path, f"names numbered {keys}; expected 0, 1, 2 and so on")
    return [match["name"].strip("\"'") for match in matches]


def _read_objects(
    path: Path, names: tuple[str, ...], width: int, height: int
) -> list[LabelledObject]:
    lines = _read_text(path, "YOLO labels").splitlines()
    return [
        _read_object(path, f"line {number} {line.strip()!r}", line.split(), names, width, height)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]


def _read_object(
    path: Path, given: str, words: list[str], names: tuple[str, ...], width: int, height: int
) -> LabelledObject:
    try:
        number = int(words[0])
        centre_x, centre_y, box_width, box_height = (float(word) for word in words[1:])
    except ValueError as error:
        raise problem(path, f"{given}; expected: class x y width height") from error
    if not 0 <= number < len(names):
        raise problem(path, f"{given}; expected a class from 0 to {len(names) - 1}")
    half_x, half_y = box_width / 2, box_height / 2
    shares = (centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y)
    check_corners(path, given, shares)
    x1, y1, x2, y2 = shares
    box = (x1 * width, y1 * height, x2 * width, y2 * height)
    return LabelledObject(names[number], clip_box(path, given, box, width, height), False)
