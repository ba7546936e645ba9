"""Guard of the generic top-level names that this project's rooms bear."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOMS = ("bbox_regression", "data", "eval", "proposals", "svm")


def check_rooms() -> None:
    """Raise ImportError where another package stands in the way of a room.

    `data` or `eval` are names that a script's own folder may hold as well; Python takes the first
    on its path.
    """
    home = Path(__file__).resolve().parents[1]
    for room in ROOMS:
        spec = importlib.util.find_spec(room)
        if spec is None:
            raise ImportError(f"spp_detect needs its package {room!r} beside it in {home}")
        found = [Path(p).resolve() for p in spec.submodule_search_locations or ()]
        if found != [home / room]:
            where = found[0] if found else spec.origin
            raise ImportError(
                f"spp_detect needs its own package {room!r}, but {where} takes that name: "
                "rename it, or start from another folder"
            )
