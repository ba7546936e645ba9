"""YOLO sets: photographs, labels, and a .yaml or classes.txt that names the classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from data.errors import problem, shorten
from data.faults import DROPPED, LEFT_OUT, Faults
from data.folder import is_photograph
from data.labels import (
    Corners,
    LabelledObject,
    LabelledSet,
    Record,
    build_set,
    check_classes,
    clip_box,
    order_corners,
)
from data.photo import photo_size
from data.splits import ALIASES, PARTS, SPLITS, UNSPLIT
from data.yolo_description import (
    Description,
    find_description,
    read_description,
    read_text,
)


def read_yolo(
    path: Path, split: str, classes: Sequence[str] | None, max_side: int, faults: Faults
) -> LabelledSet:
    """Read one split of a YOLO set.

    Its photographs lie where the .yaml says, else in images/SPLIT, SPLIT/images or, unsplit, in
    images; trainval is train and val where it is not a split of its own. A photograph without a
    label file has no objects, as is YOLO's custom. A line is a box, with or without a confidence,
    or a polygon, whose box is taken.

    Parameters
    ----------
    path : pathlib.Path
        A .yaml as ultralytics and Roboflow write it, or a folder that holds one or classes.txt.
    split : str
        The split's name; a set without splits is read whole, as "all".
    classes : sequence of str or None
        Class names, whose order is kept; None takes the set's own in their order.
    max_side : int
        Widest and highest photograph accepted, in pixels.
    faults : Faults
        Gets what was wrong.

    Returns
    -------
    LabelledSet
        Its photographs in the order of their files' names, or of a list of them.

    Raises
    ------
    DataError
        A file is missing or broken, or holds what cannot be; see `open_dataset`.
    """
    description = _describe(path)
    root = description.path.parent
    photos = description.list_split(split) or _find_in_folders(root, split)
    if not photos:
        photos, split = _find_unsplit(root, split), UNSPLIT
    missing = next((p for p in photos if not _find_labels(p).parent.is_dir()), None)
    if missing is not None:
        folder = _find_labels(missing).parent
        raise problem(folder, f"no such folder; expected the labels of {missing.parent}")
    reads = (partial(_read_record, photo, description.names, max_side, faults) for photo in photos)
    records = faults.gather(reads, LEFT_OUT)
    wanted = description.names if classes is None else check_classes("classes", classes)
    return build_set(root, split, wanted, records)


def list_yolo_splits(path: Path) -> list[str]:
    """List the splits of a YOLO set, or the one split of all."""
    description = _describe(path)
    root = description.path.parent
    found = [n for n in SPLITS if description.list_split(n) or _find_in_folders(root, n)]
    return found or [UNSPLIT]


def _describe(path: Path) -> Description:
    file = find_description(path) if path.is_dir() else path
    if file is None:
        raise problem(path, "no class names; expected classes.txt or data.yaml in it")
    return read_description(file)


def _find_in_folders(root: Path, split: str) -> list[Path]:
    """Find a split's photographs in the usual folders; trainval's in those of its parts."""
    parts = PARTS.get(split, ())
    return _list_split(root, split) or [p for part in parts for p in _list_split(root, part)]


def _find_unsplit(root: Path, split: str) -> list[Path]:
    photos = _list_folder(root / "images")
    if photos:
        return photos
    there = sorted(p.name for p in (root / "images").glob("*") if p.is_dir())
    raise problem(
        root / "images" / split,
        f"no photographs of split {split!r}; there are: {shorten(there) or 'no splits'}",
    )


def _list_split(root: Path, split: str) -> list[Path]:
    for name in ALIASES.get(split, (split,)):
        photos = _list_folder(root / "images" / name)
        photos = photos or _list_folder(root / name / "images")
        if photos:
            return photos
    return []


def _list_folder(folder: Path) -> list[Path]:
    """List the photographs that lie in a folder itself, sorted; none where there is no folder."""
    return sorted(p for p in folder.iterdir() if is_photograph(p)) if folder.is_dir() else []


def _find_labels(photo: Path) -> Path:
    """Find a photograph's labels: beside it, else in `labels` for the last `images` of its path."""
    beside = photo.with_suffix(".txt")
    parts = list(beside.parts)
    if "images" not in parts[:-1] or beside.is_file():
        return beside
    last = max(i for i, part in enumerate(parts[:-1]) if part == "images")
    return Path(*parts[:last], "labels", *parts[last + 1 :])


def _read_record(photo: Path, names: tuple[str, ...], max_side: int, faults: Faults) -> Record:
    width, height = photo_size(photo, max_side)
    source = _find_labels(photo)
    objects = _read_objects(source, names, (width, height), faults) if source.exists() else []
    return Record(photo.stem, photo, source, width, height, objects)


def _read_objects(
    path: Path, names: tuple[str, ...], size: tuple[int, int], faults: Faults
) -> list[LabelledObject]:
    lines = enumerate(read_text(path, "YOLO labels").splitlines(), 1)
    reads = (
        partial(_read_object, path, f"line {number} {line.strip()!r}", line, names, size, faults)
        for number, line in lines
        if line.strip()
    )
    return faults.gather(reads, DROPPED)


def _read_object(
    path: Path, given: str, line: str, names: tuple[str, ...], size: tuple[int, int], faults: Faults
) -> LabelledObject:
    try:
        number, *values = (float(word) for word in line.split())
    except ValueError as error:
        raise problem(path, f"{given}; expected numbers: class x y width height") from error
    if number not in range(len(names)):
        raise problem(path, f"{given}; expected a class from 0 to {len(names) - 1}")
    if not all(map(math.isfinite, values)):
        raise problem(path, f"{given} is not finite; expected numbers")
    shares = _find_corners(values)
    if shares is None:
        raise problem(path, f"{given}; expected: class x y width height, or a polygon's points")
    width, height = size
    x1, y1, x2, y2 = order_corners(path, given, shares, faults)
    box = (x1 * width, y1 * height, x2 * width, y2 * height)
    return LabelledObject(names[int(number)], clip_box(path, given, box, size, faults), False)


def _find_corners(values: list[float]) -> Corners | None:
    """Find a box's corners: of x y width height, a confidence behind them or not, or a polygon."""
    if len(values) in (4, 5):
        x, y, width, height = values[:4]
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    if len(values) < 6 or len(values) % 2:
        return None
    across, down = values[::2], values[1::2]
    return (min(across), min(down), max(across), max(down))
