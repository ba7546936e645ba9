"""Folders of photographs without labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data.errors import problem
from data.photo import PHOTO_SUFFIXES


def is_photograph(path: Path) -> bool:
    """Return whether a path's suffix, in any case, is that of a kind `read_photo` reads."""
    return path.suffix.lower() in PHOTO_SUFFIXES


def find_photographs(folder: Path | str) -> list[Path]:
    """Return the photographs of a folder and of the folders in it, sorted.

    Known suffixes decide (`PHOTO_SUFFIXES`, in any case); hidden files and folders are passed over,
    and links to folders are followed.

    Parameters
    ----------
    folder : path
        A folder, or a single photograph.

    Returns
    -------
    list of pathlib.Path
        At least one.

    Raises
    ------
    DataError
        Nothing stands there, or a file that is no photograph, or a folder without any.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("b.JPG", "a.png", ".hidden.jpg", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in find_photographs(folder)]
    ['a.png', 'b.JPG']
    """
    folder = Path(folder)
    if not folder.exists():
        raise problem(folder, "no such folder; expected a folder of photographs")
    if not folder.is_dir():
        if is_photograph(folder):
            return [folder]
        raise problem(folder, "neither a folder nor a photograph; expected one of the two")
    found = [path for path in walk_files(folder) if is_photograph(path)]
    if not found:
        raise problem(folder, f"holds no photograph; expected files {' '.join(PHOTO_SUFFIXES)}")
    return found


def find_others(folder: Path | str) -> list[Path]:
    """Return the other files of a folder and of the folders in it, sorted, hidden ones left out.

    Parameters
    ----------
    folder : path
        As of `find_photographs`.

    Returns
    -------
    list of pathlib.Path
        Empty for a single photograph.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.HEIC", "notes"):
    ...         Path(folder, name).touch()
    ...     [path.name for path in find_others(folder)]
    ['b.HEIC', 'notes']
    """
    return [path for path in walk_files(Path(folder)) if not is_photograph(path)]


def walk_files(folder: Path) -> list[Path]:
    """List the files of a folder and of the folders in it, sorted, hidden ones left out.

    Links to folders are followed, but not back to one that the link lies in. A link to nothing is
    among the files: it is one that cannot be read. What is no folder holds none.
    """
    return sorted(_walk(folder, ())) if folder.is_dir() else []


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    here = folder.resolve()
    if here in above or not os.access(folder, os.R_OK | os.X_OK):
        return
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from _walk(path, (*above, here))
        elif _is_file(path):
            yield path


def _is_file(path: Path) -> bool:
    return path.is_file() or (path.is_symlink() and not path.exists())
