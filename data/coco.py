"""COCO instances files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from data.errors import problem
from data.faults import DROPPED, LEFT_OUT, NOT_DIFFICULT, Faults
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
from data.photo import photo_size
from data.splits import UNSPLIT

SOUGHT = 100  # photographs by which their folder is found: some may be missing


def read_coco(
    path: Path, split: str, classes: Sequence[str] | None, max_side: int, faults: Faults
) -> LabelledSet:
    """Read a COCO instances file; its photographs lie beside it or in the usual folders.

    Crowds (iscrowd = 1) are difficult. A photograph's name is its image id.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    split : str
        Of whose folder the photographs may be; the set is called by the file's own name.
    classes : sequence of str or None
        Class names, whose order is kept; None takes all categories in the order of their ids.
    max_side : int
        Widest and highest photograph accepted, in pixels.
    faults : Faults
        Gets what was wrong.

    Returns
    -------
    LabelledSet
        Its photographs in the order of the file.

    Raises
    ------
    DataError
        A file is missing or broken, or holds what cannot be; see `open_dataset`.
    """
    images, annotations, categories = _read_lists(path)
    try:
        names = {int(c["id"]): str(c["name"]) for c in sorted(categories, key=lambda c: c["id"])}
        files = {int(image["id"]): str(image["file_name"]) for image in images}
        notes = [(int(a["image_id"]), a) for a in annotations]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise problem(path, f"entry without a usable {error}; expected COCO instances") from error
    if len(files) < len(images) or len(names) < len(categories):
        raise problem(path, "an image or category id stands twice; expected unique ids")
    if not files:
        raise problem(path, "holds no image; expected at least one")
    for name in files.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise problem(path, f"file_name {name!r}; expected a path within its folder")
    folder = _find_folder(path, split, files.values())
    sizes = {int(image["id"]): (image.get("width"), image.get("height")) for image in images}
    reads = (
        partial(_read_photograph, path, image_id, folder / name, max_side, sizes[image_id], faults)
        for image_id, name in files.items()
    )
    records = {int(record.name): record for record in faults.gather(reads, LEFT_OUT)}
    for image_id, note in notes:
        if image_id in records:
            record = records[image_id]
            read = partial(_read_object, path, note, names, (record.width, record.height), faults)
            record.objects.extend(faults.gather([read], DROPPED))
        elif image_id not in files:
            told = f"annotation of image id {image_id}; expected an id of 'images'"
            faults.tell(problem(path, told), DROPPED)
    given = (str(path), list(names.values())) if classes is None else ("classes", classes)
    # A file called all.json is a split by that name, not a set that has none.
    name = path.name if path.stem == UNSPLIT else path.stem
    return build_set(path.parent, name, check_classes(*given), list(records.values()))


def _read_lists(path: Path) -> list[list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise problem(path, f"broken JSON ({error}); expected COCO instances") from error
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise problem(path, f"expected COCO instances: an object with lists {', '.join(keys)}")
    return [content[key] for key in keys]


def _read_photograph(
    path: Path, image_id: int, photo: Path, max_side: int, told: tuple[Any, Any], faults: Faults
) -> Record:
    size = photo_size(photo, max_side)
    check_size(photo, told, size, faults)
    return Record(str(image_id), photo, path, *size, [])


def _find_folder(path: Path, split: str, file_names: Iterable[str]) -> Path:
    """Find the first of the usual folders that holds any of the first photographs."""
    first = list(islice(file_names, SOUGHT))
    beside, above = path.parent, path.parent.parent
    # annotations/instances_val2017.json lies beside the folder val2017
    ending = path.stem.rpartition("_")[2]
    folders = [beside / "images" / split, beside / "images", beside]
    folders += [above / "images" / split, above / "images" / ending, above / "images"]
    folders += [above / split, above / ending, above]
    for folder in folders:
        if any((folder / name).is_file() for name in first):
            return folder
    raise problem(
        path, f"photograph {first[0]!r} not found; expected it beside the file or in images/"
    )


def _read_object(
    path: Path, note: dict[str, Any], names: dict[int, str], size: tuple[int, int], faults: Faults
) -> LabelledObject:
    given = f"annotation {note.get('id')} with bbox {note.get('bbox')}"
    category, crowd = note.get("category_id"), note.get("iscrowd", 0)
    if not isinstance(category, int) or category not in names:
        raise problem(path, f"{given} has category_id {category!r}; expected an id of 'categories'")
    if crowd not in (0, 1):
        told = f"{given} has iscrowd {crowd!r}; expected 0 or 1"
        faults.tell(problem(path, told), NOT_DIFFICULT)
    try:
        x, y, box_width, box_height = (float(value) for value in note["bbox"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise problem(path, f"{given}; expected x, y, width, height") from error
    box = order_corners(path, given, (x, y, x + box_width, y + box_height), faults)
    return LabelledObject(names[category], clip_box(path, given, box, size, faults), crowd == 1)
