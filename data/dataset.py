"""Labelled sets, opened by what stands at a path."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from data.coco import read_coco
from data.errors import DataError, problem
from data.labels import LabelledSet, Photograph
from data.photo import DEFAULT_MAX_SIDE, read_photo
from data.voc import find_voc_folder, read_voc
from data.xml_folder import has_annotations, read_xml_folder
from data.yolo import read_yolo
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

    Returns
    -------
    LabelledSet
        Its photographs in the order of the split.

    Raises
    ------
    DataError
        The set or one of its files is missing, broken or empty; an id stands twice; a box is
        inverted, of zero area, not numeric or more than one pixel outside its photograph; all
        objects are of other classes; there is no class at all.

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
    if not path.exists():
        raise problem(path, f"no such file or folder; {_EXPECTED}")
    if path.is_file():
        if path.suffix.lower() == ".json":
            return read_coco(path, split, classes, max_side)
        if path.suffix.lower() in YAML_SUFFIXES:
            return read_yolo(path, split, classes, max_side)
        raise problem(path, f"not a labelled set; {_EXPECTED}")
    voc = find_voc_folder(path)
    if voc is not None:
        return read_voc(voc, split, classes, max_side)
    if _is_yolo(path):
        return read_yolo(path, split, classes, max_side)
    if has_annotations(path):
        return read_xml_folder(path, split, classes, max_side)
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

    def check(photograph: Photograph) -> DataError | None:
        try:
            read_photo(photograph.path, max_side)
        except DataError as error:
            return error
        return None

    with ThreadPoolExecutor(workers) as pool:
        return [error for error in pool.map(check, dataset) if error is not None]
