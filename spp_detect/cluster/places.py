"""Folders on any file system that fsspec opens: local ones, s3://bucket/folder and others."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from spp_detect.lock import lock_folder

PART = ".part"  # ends the name of a local file that is not whole yet


class PlaceError(ValueError):
    """A folder that cannot be read or written; one line says which, and why."""


class MissingFileError(PlaceError):
    """A file that is not there, in a folder that is."""


@dataclass(frozen=True)
class Place:
    """A folder; it may be sent to other machines, which find the same there.

    Attributes
    ----------
    text : str
        As it was given.
    system : fsspec.AbstractFileSystem
        Where it lies.
    root : str
        Its path there.
    """

    text: str
    system: Any
    root: str

    @classmethod
    def find(cls, text: str | Path) -> Place:
        """Find a folder by its path or URL, whether there is one or not yet.

        Raises
        ------
        PlaceError
            For a file system that is not known, or whose package is not installed.
        """
        text = str(text)
        if "://" not in text:
            return cls(text, fsspec.filesystem("file"), str(Path(text).absolute()))
        try:
            system, root = fsspec.core.url_to_fs(text)
        except (ImportError, ValueError) as error:
            raise PlaceError(f"{text}: {' '.join(str(error).split())}") from error
        return cls(text, system, str(root).rstrip("/"))

    def list_files(self) -> list[str]:
        """List all files below by their paths from here, sorted; a single file by its name.

        Raises
        ------
        PlaceError
            Where the folder cannot be read.
        """
        with self._telling("cannot be read"):
            self.system.invalidate_cache()
            found = [str(path) for path in self.system.find(self.root)]
        if found == [self.root]:
            return [PurePosixPath(self.root).name]
        return sorted(path[len(self.root) + 1 :] for path in found)

    def read(self, name: str) -> bytes:
        """Read a file below.

        Raises
        ------
        MissingFileError
            Where there is no such file.
        PlaceError
            Where the folder is not there, or anything else goes wrong: trying again may help.
        """
        path = f"{self.root}/{name}"
        if PurePosixPath(self.root).name == name and self.system.isfile(self.root):
            path = self.root
        with self._telling("cannot be read", name):
            if self.system.isfile(path):  # of a local pipe, too, a reader would wait for ever
                return bytes(self.system.cat_file(path))
            there = self.system.exists(self.root)
        told = f"{self.text.rstrip('/')}/{name}: no such file; expected a photograph"
        raise MissingFileError(told) if there else PlaceError(f"{self.text}: no such folder")

    def write(self, name: str, content: bytes) -> None:
        """Write a file below, whole or not at all; PlaceError where it cannot be."""
        path = f"{self.root}/{name}"
        with self._telling("cannot be written", name):
            if not self.is_local:
                self.system.pipe_file(path, content)  # an object is there when it is whole
                return
            part = Path(f"{path}.{uuid.uuid4().hex}{PART}")
            part.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(content)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def holds(self, name: str) -> bool:
        """Tell whether a file is below; PlaceError where that cannot be found out."""
        with self._telling("cannot be read", name):
            self.system.invalidate_cache()
            return bool(self.system.isfile(f"{self.root}/{name}"))

    def remove(self, name: str) -> None:
        """Remove a file below; PlaceError where it cannot be."""
        with self._telling("cannot be removed", name):
            self.system.rm_file(f"{self.root}/{name}")

    @contextmanager
    def kept_from_others(self) -> Iterator[None]:
        """Keep other runs out of a local folder, which is made; other systems know no locks.

        Raises
        ------
        LockError
            Where another run works there.
        PlaceError
            Where the folder cannot be written.
        """
        with ExitStack() as stack:
            try:
                if self.is_local:
                    stack.enter_context(lock_folder(Path(self.root)))
            except OSError as error:
                raise PlaceError(f"{self.text}: cannot be written ({error.strerror})") from error
            yield

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's own file systems."""
        protocols = self.system.protocol
        return "file" in ([protocols] if isinstance(protocols, str) else protocols)

    @contextmanager
    def _telling(self, what: str, name: str = "") -> Iterator[None]:
        """Turn any file system's error into one line: each has its own kinds."""
        try:
            yield
        except Exception as error:
            told = " ".join(str(error).split()) or type(error).__name__
            whole = f"{self.text.rstrip('/')}/{name}" if name else self.text
            raise PlaceError(f"{whole}: {what} ({told})") from error
