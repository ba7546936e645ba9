"""Labelled sets, opened by what stands at a path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data.coco import read_coco
from data.errors import DataError, problem
from data.faults import LEFT_OUT, Faults, summarise_faults
from data.labels import LabelledSet, Photograph
from data.photo import DEFAULT_MAX_SIDE, read_photo
from data.voc import find_voc_folder, list_voc_splits, read_voc
from data.xml_folder import has_annotations, list_xml_splits, read_xml_folder
from data.yolo import list_yolo_splits, read_yolo
from data.yolo_description import YAML_SUFFIXES, find_description

_EXPECTED = (
    "expected a VOC folder (Annotations, JPEGImages, ImageSets/Main), photographs with an .xml "
    "each, a COCO .json file, or a YOLO folder (images, labels, classes.txt or data.yaml) or its "
    ".yaml"
)


def open_dataset(
    path: Path | str,
    split: str,
    classes: Sequence[str] | None = None,
    max_side: int = DEFAULT_MAX_SIDE,
    *,
    strict: bool = False,
) -> LabelledSet:
    """Read the labels of one split, and every photograph's size from its header.

    Parameters
    ----------
    path : path
        A VOC folder or one that holds exactly one (VOCdevkit or its parent), a folder with VOC's
        annotations and no ImageSets, as labelImg leaves it, a COCO instances file, or a YOLO folder
        or its .yaml file.
    split : str
        The split's name. A COCO file is one split and is called by its own name, a folder
        without splits is "all", whatever is asked.
    classes : sequence of str, optional
        Class names, whose order is kept; objects of other classes are left out and counted. By
        default the classes that the set itself has.
    max_side : int
        Widest and highest photograph accepted, in pixels.
    strict : bool
        Refuse a set that has any fault. Else boxes that are inverted or reach out of their
        photograph are mended, those of zero area, wholly outside, not numeric or of no known class
        are dropped, and a photograph that is missing or whose labels are broken is left out; the
        set's `faults` tell of each.

    Returns
    -------
    LabelledSet
        Its photographs in the order of the split.

    Raises
    ------
    DataError
        The set is missing, broken or empty; an id stands twice; all objects are of other classes;
        there is no class at all; it has faults and `strict` is given.

    Examples
    --------
    >>> import tempfile
    >>> from data import SYNTHETIC_CLASSES, make_synthetic_set
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = make_synthetic_set(f"{folder}/voc", train=1, val=1, test=2)
    ...     dataset = open_dataset(root, "test", classes=SYNTHETIC_CLASSES)
    ...     check_photographs(dataset)
    []
    >>> [photograph.name for photograph in dataset]
    ['test_00000', 'test_00001']
    >>> dataset.photographs[0].labels.boxes.dtype
    dtype('float32')
    """
    path = Path(path)
    faults = Faults()
    try:
        dataset = _find_format(path).read(split, classes, max_side, faults)
    except DataError as error:
        if not faults.found:
            raise
        raise DataError(f"{error} ({summarise_faults(faults.found)})") from error
    if not len(dataset):
        raise DataError(summarise_faults(faults.found))
    if strict and faults.found:
        raise DataError(f"{path}: {summarise_faults(faults.found)}")
    return replace(dataset, faults=tuple(faults.found))


def list_splits(path: Path | str) -> list[str]:
    """List the splits of a labelled set.

    Parameters
    ----------
    path : path
        As of `open_dataset`.

    Returns
    -------
    list of str
        Their names, each of which `open_dataset` takes.

    Raises
    ------
    DataError
        The set is missing or not one.

    Examples
    --------
    >>> import tempfile
    >>> from data import make_synthetic_set
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     list_splits(make_synthetic_set(f"{folder}/voc", train=1, val=1, test=2))
    ['test', 'train', 'trainval', 'val']
    """
    return _find_format(Path(path)).list_splits()


class _Format(NamedTuple):
    """What reads a set."""

    read: Callable[..., LabelledSet]
    list_splits: Callable[[], list[str]]


def _find_format(path: Path) -> _Format:
    """Find what reads a set, by what stands at the path."""
    if not path.exists():
        raise problem(path, f"no such file or folder; {_EXPECTED}")
    coco = _Format(partial(read_coco, path), lambda: [path.stem])
    yolo = _Format(partial(read_yolo, path), partial(list_yolo_splits, path))
    if path.is_file():
        if path.suffix.lower() == ".json":
            return coco
        if path.suffix.lower() in YAML_SUFFIXES:
            return yolo
        raise problem(path, f"not a labelled set; {_EXPECTED}")
    voc = find_voc_folder(path)
    if voc is not None:
        return _Format(partial(read_voc, voc), partial(list_voc_splits, voc))
    if _is_yolo(path):
        return yolo
    if has_annotations(path):
        return _Format(partial(read_xml_folder, path), partial(list_xml_splits, path))
    raise problem(path, f"not a labelled set; {_EXPECTED}")


def is_labelled(path: Path | str) -> bool:
    """Return whether a path looks like a labelled set rather than a folder of photographs.

    Parameters
    ----------
    path : path
        Any; it need not exist.

    Returns
    -------
    bool
        Whether `open_dataset` would try it.

    Raises
    ------
    DataError
        The folder holds several VOC folders.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     before = is_labelled(folder)
    ...     Path(folder, "labels").mkdir()
    ...     before, is_labelled(folder)
    (False, True)
    """
    path = Path(path)
    if path.is_file():
        return path.suffix.lower() in (".json", *YAML_SUFFIXES)
    if not path.is_dir():
        return False
    return find_voc_folder(path) is not None or _is_yolo(path) or has_annotations(path)


def _is_yolo(path: Path) -> bool:
    if find_description(path) is not None:
        return True
    return (path / "labels").exists() and not has_annotations(path)  # some keep .xml files there


def check_photographs(
    dataset: LabelledSet, max_side: int = DEFAULT_MAX_SIDE, workers: int = 4
) -> list[DataError]:
    """Decode every photograph and return the problems found, in the set's order.

    Parameters
    ----------
    dataset : LabelledSet
        The set to check.
    max_side : int
        Widest and highest photograph accepted, in pixels.
    workers : int
        Threads that decode at once.

    Returns
    -------
    list of DataError
        One per photograph that cannot be read; for an example see `open_dataset`.
    """
    return [error for error in _decode(dataset, max_side, workers) if error is not None]


def leave_out_unreadable(
    dataset: LabelledSet, max_side: int = DEFAULT_MAX_SIDE, workers: int = 4
) -> LabelledSet:
    """Decode every photograph and leave out those that cannot be read; they become faults.

    Parameters
    ----------
    dataset : LabelledSet
        Any.
    max_side, workers : int
        As of `check_photographs`.

    Returns
    -------
    LabelledSet
        Of the photographs that can be read.

    Raises
    ------
    DataError
        Where none can.
    """
    faults = Faults()
    kept = []
    errors = _decode(dataset, max_side, workers)
    for photograph, error in zip(dataset, errors, strict=True):
        if error is None:
            kept.append(photograph)
        else:
            faults.tell(error, LEFT_OUT)
    if not kept:
        raise DataError(summarise_faults(faults.found))
    told = (*dataset.faults, *faults.found)
    return replace(dataset, photographs=tuple(kept), faults=told)


def _decode(dataset: LabelledSet, max_side: int, workers: int) -> list[DataError | None]:
    """Decode every photograph: what is wrong with each."""

    def check(photograph: Photograph) -> DataError | None:
        try:
            read_photo(photograph.path, max_side)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(check, dataset))
