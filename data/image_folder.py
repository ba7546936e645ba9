"""Folders of images by class, as ImageNet is unpacked and torchvision's ImageFolder reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import problem, shorten
from data.folder import is_photograph, walk_files

SPLITS = {"train", "val", "valid", "trainval", "test"}  # as folders of splits are called


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of which each shows one class.

    Attributes
    ----------
    classes : tuple of str
        The names that labels index.
    paths : tuple of pathlib.Path
        The N images' files.
    labels : numpy.ndarray
        Int64 ``(N,)``, indices into ``classes``.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)


def open_image_folder(folder: Path | str, classes: Sequence[str] | None = None) -> ImageSet:
    """List the images of a folder that has a folder for each class, sorted by class and name.

    Parameters
    ----------
    folder : path
        The classes' folders lie in it; hidden ones are passed over.
    classes : sequence of str, optional
        The names that are known, whose order is kept; not each must have a folder. By default
        those of the folders, sorted.

    Returns
    -------
    ImageSet
        At least two classes.

    Raises
    ------
    DataError
        For a folder that is missing or has less than two classes' folders (where classes are given,
        none), a class's folder without images, and other classes than the ones given.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog/b.jpg", "cat/a.png", "cat/notes.txt"):
    ...         Path(folder, name).parent.mkdir(exist_ok=True)
    ...         Path(folder, name).touch()
    ...     pets = open_image_folder(folder)
    >>> pets.classes, [path.name for path in pets.paths], pets.labels
    (('cat', 'dog'), ['a.png', 'b.jpg'], array([0, 1]))
    """
    folder = Path(folder)
    found = find_class_folders(folder)
    if len(found) < (2 if classes is None else 1):
        held = f"only one class's folder, {found[0].name}" if found else "no folder of a class"
        raise problem(folder, f"holds {held}; expected a folder of images for each of two or more")
    names = [path.name for path in found]
    wanted = tuple(classes) if classes is not None else tuple(names)
    if not set(names) <= set(wanted):
        raise problem(
            folder, f"has the classes {shorten(names)}; expected {shorten(sorted(wanted))}"
        )
    images = [[p for p in walk_files(folder / name) if is_photograph(p)] for name in wanted]
    for name, own in zip(wanted, images, strict=True):
        if not own and name in names:
            raise problem(folder / name, "holds no image; expected those of a class")
    paths = tuple(path for own in images for path in own)
    return ImageSet(wanted, paths, np.repeat(np.arange(len(wanted)), [len(own) for own in images]))


def find_class_folders(folder: Path | str) -> list[Path]:
    """Find the folders in a folder, sorted, hidden ones left out.

    Raises
    ------
    DataError
        Where there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog", ".hidden", "cat"):
    ...         Path(folder, name).mkdir()
    ...     [path.name for path in find_class_folders(folder)]
    ['cat', 'dog']
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise problem(folder, "no such folder; expected one of a folder for each class")
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def list_split_folders(folder: Path) -> list[str]:
    """List the names of a folder's splits, as train and val of ImageNet; there may be none.

    A class may be called as a split is. So where none of them holds folders of classes, or a class
    of another name stands beside them, they are classes.

    Raises
    ------
    DataError
        Where there is no such folder.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("train/cat", "train/dog", "val/cat", "val/dog"):
    ...         Path(folder, name).mkdir(parents=True)
    ...     list_split_folders(Path(folder)), list_split_folders(Path(folder, "train"))
    (['train', 'val'], [])
    """
    found = {one.name: one for one in find_class_folders(folder)}
    splits = sorted(SPLITS & set(found))
    others = [one for name, one in found.items() if splits and name not in SPLITS]
    if not any(find_class_folders(folder / name) for name in splits):
        return []
    return [] if any(map(_holds_photographs, others)) else splits


def _holds_photographs(folder: Path) -> bool:
    return any(is_photograph(path) for path in folder.iterdir())
