"""What glibc's allocator does with memory that is freed.

It keeps what is freed between pieces that are still in use: photographs of ever other sizes leave
ever more of it, though the pieces in use do not grow. Large pieces it hands back to the system at
once, which costs more than many a layer of a network where the next step takes the same again: the
system fills them with zeros, page by page.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# mallopt's parameters, in malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# Nothing is mapped by itself, nothing trimmed.
_KEEPING = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
# As glibc starts, but for its thresholds: once one is set they stay, where they grow by themselves
# up to these.
_USUAL = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


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


@contextmanager
def keeping_freed() -> Iterator[None]:
    """Keep large pieces that are freed, where the C library can; all are handed back at the end.

    For steps of training, each of which takes what the last one freed. It holds for all of the
    process.
    """
    _set(_KEEPING)
    try:
        yield
    finally:
        _set(_USUAL)
        hand_back()


def _set(values: dict[int, int]) -> None:
    if _MALLOPT is not None:
        for parameter, value in values.items():
            _MALLOPT(parameter, value)
