"""PASCAL VOC folders: Annotations, JPEGImages, ImageSets/Main."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from functools import partial
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from data.errors import problem, shorten
from data.faults import DROPPED, LEFT_OUT, NOT_DIFFICULT, Faults
from data.folder import is_photograph
from data.labels import (
    LabelledObject,
    LabelledSet,
    Record,
    build_set,
    check_classes,
    check_size,
    clip_box,
    order_corners,
)
from data.photo import PHOTO_SUFFIXES, photo_size
from data.splits import SPLITS, UNSPLIT

ONLY = "default"
_CLASS_MARK = re.compile(r"\s+(-1|0|1)$")


def find_voc_folder(path: Path) -> Path | None:
    """Return the VOC folder at a path, in it or one folder deeper.

    Parameters
    ----------
    path : pathlib.Path
        Any folder.

    Returns
    -------
    pathlib.Path or None
        None where there is none.

    Raises
    ------
    DataError
        There are several, as in a VOCdevkit of two years.
    """
    nearest = [path]
    for _ in range(3):
        found = [folder for folder in nearest if _is_voc(folder)]
        if len(found) > 1:
            names = ", ".join(str(folder.relative_to(path)) for folder in found)
            raise problem(path, f"holds several VOC folders ({names}); expected one: name it")
        if found:
            return found[0]
        nearest = [child for folder in nearest for child in _subfolders(folder)]
    return None


def read_voc(
    root: Path, split: str, classes: Sequence[str] | None, max_side: int, faults: Faults
) -> LabelledSet:
    """Read one split of a VOC folder, any year's.

    Parameters
    ----------
    root : pathlib.Path
        Holds Annotations, JPEGImages and ImageSets.
    split : str
        The split's name. Where "default" is the only one, as in CVAT's exports, the set is read
        whole, as "all".
    classes : sequence of str or None
        Class names, whose order is kept; None takes the names found in the
        split, sorted, as VOC's own are.
    max_side : int
        Widest and highest photograph accepted, in pixels.
    faults : Faults
        Gets what was wrong.

    Returns
    -------
    LabelledSet
        Its photographs in the order of the split's file.

    Raises
    ------
    DataError
        A file is missing or broken, or holds what cannot be; see `open_dataset`.
    """
    unsplit = list_voc_splits(root) == [ONLY]
    split = ONLY if unsplit else split
    files = _index_photographs(root / "JPEGImages")
    reads = (
        partial(_read_record, root, files, name, split, max_side, faults)
        for name in _read_split(root, split, files)
    )
    records = faults.gather(reads, LEFT_OUT)
    if classes is None:
        classes = sorted({o.class_name for record in records for o in record.objects})
        origin = str(_split_file(root, split))
    else:
        origin = "classes"
    name = UNSPLIT if unsplit else split
    return build_set(root, name, check_classes(origin, classes), records)


def list_voc_splits(root: Path) -> list[str]:
    """List the splits of a VOC folder, without the lists of single classes."""
    names = sorted(path.stem for path in _split_file(root, "any").parent.glob("*.txt"))
    known = (*SPLITS, ONLY)
    return [name for name in names if name.rpartition("_")[2] not in known or "_" not in name]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    except PermissionError:  # what may not be looked into holds no set for us
        return []


def _is_voc(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in ("Annotations", "JPEGImages", "ImageSets"))


def _split_file(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Main" / f"{split}.txt"


def _read_split(root: Path, split: str, files: Container[str]) -> list[str]:
    path = _split_file(root, split)
    if not path.is_file():
        others = sorted((p.stem for p in path.parent.glob("*.txt")), key=lambda s: ("_" in s, s))
        there = f"there are: {shorten(others)}" if others else f"{path.parent} holds none"
        raise problem(path, f"no such file for split {split!r}; {there}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise problem(path, f"cannot be read ({error}); expected a list of ids") from error
    # The per-class files (cat_train.txt) carry -1, 0 or 1 after the id; an id may end so, too.
    stripped = [line.strip() for line in lines if line.strip()]
    names = [line if line in files else _CLASS_MARK.sub("", line) for line in stripped]
    if not names:
        raise problem(path, "is empty; expected one photograph's id a line")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise problem(path, f"id {name!r} stands twice; expected each once")
        seen.add(name)
    return names


def _index_photographs(folder: Path) -> dict[str, Path]:
    files = [path for path in folder.iterdir() if is_photograph(path)]
    return {path.stem: path for path in sort_by_kind(files)}


def sort_by_kind(photos: list[Path]) -> list[Path]:
    """Sort so that of two photographs of one name the kind first in PHOTO_SUFFIXES comes last."""
    return sorted(photos, key=lambda path: (-PHOTO_SUFFIXES.index(path.suffix.lower()), path))


def _read_record(
    root: Path, files: dict[str, Path], name: str, split: str, max_side: int, faults: Faults
) -> Record:
    annotation = root / "Annotations" / f"{name}.xml"
    for path, folder in ((files.get(name), "JPEGImages"), (annotation, "Annotations")):
        if path is None or not path.is_file():
            missing = path or root / folder / f"{name}.jpg"
            raise problem(missing, f"no such file; {_split_file(root, split)} names {name!r}")
    photo = files[name]
    width, height = photo_size(photo, max_side)
    objects = read_objects(annotation, (width, height), faults)
    return Record(name, photo, annotation, width, height, objects)


def read_objects(annotation: Path, size: tuple[int, int], faults: Faults) -> list[LabelledObject]:
    """Read the objects of an annotation of a photograph of (width, height) in pixels."""
    root = _parse(annotation)
    check_size(
        annotation, (root.findtext("size/width"), root.findtext("size/height")), size, faults
    )
    elements = root.findall("object")
    reads = (partial(_read_object, annotation, element, size, faults) for element in elements)
    return faults.gather(reads, DROPPED)


def _parse(path: Path) -> Element:
    try:
        root = parse(path).getroot()
    except (ParseError, DefusedXmlException, ValueError, LookupError, OSError) as error:
        raise problem(path, f"broken XML ({error}); expected a VOC annotation") from error
    if root is None or root.tag != "annotation":
        tag = None if root is None else root.tag
        raise problem(path, f"root element {tag!r}; expected 'annotation'")
    return root


def _read_object(
    path: Path, element: Element, size: tuple[int, int], faults: Faults
) -> LabelledObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise problem(path, "an object without a name; expected <name>CLASS</name>")
    # find and findall see direct children only: the boxes of a person's parts are not the object's.
    bndbox = element.find("bndbox")
    if bndbox is None:
        raise problem(path, f"object {name!r} has no bndbox; expected one")
    texts = {key: bndbox.findtext(key) for key in ("xmin", "ymin", "xmax", "ymax")}
    given = f"box of {name!r} " + " ".join(f"{key}={text!r}" for key, text in texts.items())
    try:
        x1, y1, x2, y2 = (float(text or "") for text in texts.values())
    except ValueError as error:
        raise problem(path, f"{given} is not numeric; expected four numbers") from error
    xmin, ymin, xmax, ymax = order_corners(path, given, (x1, y1, x2, y2), faults)
    # VOC's corners are 1-based and inclusive.
    box = clip_box(path, given, (xmin - 1, ymin - 1, xmax, ymax), size, faults)
    return LabelledObject(name, box, _read_difficult(path, name, element, faults))


def _read_difficult(path: Path, name: str, element: Element, faults: Faults) -> bool:
    text = (element.findtext("difficult") or "0").strip()
    if text not in ("0", "1", "Unspecified"):  # the last some tools write where nobody said
        told = f"difficult of {name!r} is {text!r}; expected 0 or 1"
        faults.tell(problem(path, told), NOT_DIFFICULT)
    return text == "1"
