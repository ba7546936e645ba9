"""The error of this package, and the kind of it that may pass."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """A photograph, an annotation or a folder is not what it should be; one line says why."""


class MemoryShortageError(DataError):
    """A photograph for which the memory does not suffice, alone or beside others."""


def problem(path: Path, what: str) -> DataError:
    """Return the error "PATH: WHAT", on one line whatever the two hold."""
    return DataError(" ".join(f"{path}: {what}".splitlines()))


def shorten(names: list[str], most: int = 10) -> str:
    """Return names joined by commas, the count standing in for those past ``most``."""
    shown = ", ".join(names[:most])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > most else shown
