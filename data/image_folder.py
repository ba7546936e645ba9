"""Folders of photographs whose subfolders are classes, as Caltech-101 and torchvision have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from data.errors import problem
from data.folder import is_photograph, walk_files


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Photographs of one class each; its length is that of ``paths``.

    Attributes
    ----------
    classes : tuple of str
        Names, sorted.
    paths : tuple of pathlib.Path
        The photographs, class after class.
    labels : numpy.ndarray
        Int64 ``(N,)``, each photograph's index into ``classes``.
    """

    classes: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)


def open_image_folder(folder: Path | str) -> ImageSet:
    """List the photographs of a folder that has a subfolder for each class.

    Parameters
    ----------
    folder : path
        Its subfolders' names are those of the classes; hidden ones and files beside them are passed
        over. Photographs may lie deeper.

    Returns
    -------
    ImageSet
        Photographs are told by their suffix and not opened.

    Raises
    ------
    DataError
        Nothing stands there; no subfolder, or only one; a subfolder without photographs.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("dog/1.jpg", "cat/2.jpg", "cat/1.png"):
    ...         path = Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         path.touch()
    ...     images = open_image_folder(folder)
    >>> images.classes, [path.name for path in images.paths], images.labels
    (('cat', 'dog'), ['1.png', '2.jpg', '1.jpg'], array([0, 0, 1]))
    """
    folder = Path(folder)
    classes = _list_class_folders(folder)
    paths: list[Path] = []
    labels: list[int] = []
    for label, one in enumerate(classes):
        own = [path for path in walk_files(one) if is_photograph(path)]
        if not own:
            raise problem(one, "holds no photograph; expected those of a class")
        paths += own
        labels += [label] * len(own)
    names = tuple(one.name for one in classes)
    return ImageSet(names, tuple(paths), np.array(labels, np.int64))


def _list_class_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise problem(folder, "no such folder; expected one with a subfolder for each class")
    found = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(found) < 2:
        there = f"only the subfolder {found[0].name!r}" if found else "no subfolder"
        raise problem(folder, f"has {there}; expected one for each of two classes or more")
    return found
