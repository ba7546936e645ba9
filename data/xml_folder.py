"""Folders of VOC annotations without lists of splits, as labelImg and Roboflow leave them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data.errors import problem, shorten
from data.faults import ANNOTATION_LEFT_OUT, LEFT_OUT, Faults
from data.folder import find_photographs, walk_files
from data.labels import LabelledSet, Record, build_set, check_classes
from data.photo import photo_size
from data.splits import ALIASES, PARTS, SPLITS, UNSPLIT
from data.voc import read_objects, sort_by_kind


def has_annotations(path: Path) -> bool:
    """Whether there are VOC annotations in a folder, by the start of the first .xml file."""
    found = _find_xml(path)
    try:
        return bool(found) and "<annotation" in found[0].read_text(encoding="utf-8-sig")[:1000]
    except (OSError, UnicodeDecodeError):
        return False


def read_xml_folder(
    root: Path, split: str, classes: Sequence[str] | None, max_side: int, faults: Faults
) -> LabelledSet:
    """Read a folder that holds photographs and an .xml for each, beside it or in another folder.

    Where there are folders called as the split, or as train and val for trainval, it is what lies
    in them; else it is everything, as the split "all".

    Parameters
    ----------
    root : pathlib.Path
        Holds both, in folders of any depth.
    split : str
        The split's name.
    classes : sequence of str or None
        Class names, whose order is kept; None takes the names found, sorted.
    max_side : int
        Widest and highest photograph accepted, in pixels.
    faults : Faults
        Gets what was wrong.

    Returns
    -------
    LabelledSet
        Its photographs sorted by their path; `notes` names those without an .xml, left out.

    Raises
    ------
    DataError
        An annotation is broken or has no photograph, or holds what cannot be; see `open_dataset`.
    """
    folders = _find_split(root, split)
    pairs = [pair for folder in folders or [root] for pair in _pair(folder, faults)]
    reads = (partial(_read_record, p, a, max_side, faults) for p, a in pairs if a is not None)
    records = faults.gather(reads, LEFT_OUT)
    without = [str(photo.relative_to(root)) for photo, annotation in pairs if annotation is None]
    if classes is None:
        classes = sorted({o.class_name for record in records for o in record.objects})
        origin = str(root)
    else:
        origin = "classes"
    name = split if folders else UNSPLIT
    dataset = build_set(root, name, check_classes(origin, classes), records)
    note = f"{len(without)} photographs without an .xml left out: {shorten(without)}"
    return replace(dataset, notes=(note,)) if without else dataset


def list_xml_splits(root: Path) -> list[str]:
    """List the splits for which there are folders, or the one split of all."""
    return [name for name in SPLITS if _find_split(root, name)] or [UNSPLIT]


def _find_split(root: Path, split: str) -> list[Path]:
    folders = [root / name for name in ALIASES.get(split, (split,)) if _find_xml(root / name)]
    return folders[:1] or [f for part in PARTS.get(split, ()) for f in _find_split(root, part)]


def _find_xml(folder: Path) -> list[Path]:
    return [path for path in walk_files(folder) if path.suffix.lower() == ".xml"]


def _pair(folder: Path, faults: Faults) -> list[tuple[Path, Path | None]]:
    """Find each photograph's annotation: the .xml of its name beside it, else the only other one.

    Of several photographs of one name in a folder the kind that comes first in PHOTO_SUFFIXES is
    taken.
    """
    photos: dict[str, dict[Path, Path]] = {}  # by name and folder
    for photo in sort_by_kind(find_photographs(folder)):
        photos.setdefault(photo.stem, {})[photo.parent] = photo
    found: dict[Path, Path] = {}
    for annotation in _find_xml(folder):
        homes = photos.get(annotation.stem, {})
        home = annotation.parent if annotation.parent in homes else next(iter(homes), None)
        if home is None:
            told = "no photograph of this name; expected one beside the others"
            faults.tell(problem(annotation, told), ANNOTATION_LEFT_OUT)
            continue
        if home != annotation.parent and len(homes) > 1:
            both = shorten([str(photo) for photo in homes.values()])
            raise problem(annotation, f"several photographs have its name: {both}; expected one")
        if homes[home] in found:
            raise problem(annotation, f"{found[homes[home]]} is of the same photograph, too")
        found[homes[home]] = annotation
    every = sorted(photo for homes in photos.values() for photo in homes.values())
    return [(photo, found.get(photo)) for photo in every]


def _read_record(photo: Path, annotation: Path, max_side: int, faults: Faults) -> Record:
    width, height = photo_size(photo, max_side)
    objects = read_objects(annotation, (width, height), faults)
    return Record(photo.stem, photo, annotation, width, height, objects)
