"""Levels of the spatial pyramid (paper, section 2.2)."""

from __future__ import annotations

DEFAULT_LEVELS = (6, 3, 2, 1)


def check_levels(levels: tuple[int, ...]) -> tuple[int, ...]:
    """Return the levels as a tuple; raise ValueError unless they are positive integers."""
    levels = tuple(levels)
    if not levels or not all(type(n) is int and n >= 1 for n in levels):
        raise ValueError(f"pyramid levels {levels}: expected positive integers, as 6,3,2,1")
    return levels
