"""A folder belongs to one run at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

NAME = ".lock"


class LockError(ValueError):
    """A folder that another run works in; one line names it."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is made where it is missing.

    The system lets go of it when the process ends, however it ends.

    Raises
    ------
    LockError
        Where another run works there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockError(
            f"{folder}: another run works there; expected a folder of its own, or wait for it"
        ) from error
    try:
        yield
    finally:
        lock.release()
