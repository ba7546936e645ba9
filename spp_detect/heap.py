"""Freed memory handed back to the system.

glibc's allocator keeps what is freed between pieces that are still in use. Photographs of ever
other sizes leave ever more of it, though the pieces in use do not grow.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # not glibc: musl, macOS, Windows
        return None
    return trim


_TRIM = _find_trim()


def hand_back() -> None:
    """Hand freed memory back to the system, where the C library can.

    What is needed again is had anew, which costs time: after some photographs, not after each.
    """
    if _TRIM is not None:
        _TRIM(0)
