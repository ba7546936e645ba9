"""Names of photographs in results: any that a file may have, readable and writable anywhere."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath

LONGEST_NAME = 200  # bytes of a file's name: with what is added to it, within any file system's 255
LONGEST_SUFFIX = 16  # bytes: more is part of the name


def name_below(path: Path, root: Path) -> str:
    """Name a photograph by its path below a folder, or by its own name where it is the root."""
    relative = path.relative_to(root) if path != root else Path(path.name)
    return make_readable(relative.as_posix())


def make_readable(text: str) -> str:
    """Write bytes of a file's name that are no UTF-8 with a backslash, in hexadecimal."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def make_safe(path: str) -> str:
    """Shorten names in a relative path that no file system takes; they stay different."""
    return str(PurePosixPath(*map(_shorten, PurePosixPath(path).parts)))


def _shorten(name: str) -> str:
    if len(name.encode()) <= LONGEST_NAME:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= LONGEST_SUFFIX else ""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    start = name.encode()[: LONGEST_NAME - len(suffix.encode()) - 17].decode(errors="ignore")
    return f"{start}-{digest}{suffix}"
