"""What glibc's allocator does with memory that is freed.

It keeps what is freed between pieces that are still in use: photographs of ever other sizes leave
ever more of it, though the pieces in use do not grow. Large pieces it hands back to the system at
once, which costs more than many a layer of a network where the next step takes the same again: the
system fills them with zeros, page by page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

# Parameters of mallopt, in malloc.h, and what they are set to: above any piece that a step takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def _find(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # not glibc: musl, macOS, Windows
        return None
    return found


_TRIM, _MALLOPT = _find("malloc_trim"), _find("mallopt")


def hand_back() -> None:
    """Hand freed memory back to the system, where the C library can.

    What is needed again is had anew, which costs time: after some photographs, not after each.
    """
    if _TRIM is not None:
        _TRIM(0)


def keep_freed() -> None:
    """From here on keep large pieces that are freed until `hand_back`, where the C library can.

    For steps of training, each of which takes what the last one freed.
    """
    if _MALLOPT is not None:
        _MALLOPT(_MMAP_THRESHOLD, _LARGEST)
        _MALLOPT(_TRIM_THRESHOLD, _LARGEST)
