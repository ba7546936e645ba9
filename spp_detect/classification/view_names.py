"""Names of the ways to look at an image; they stand alone, so that help comes at once."""

from __future__ import annotations

CROPPED = ("centre", "ten")  # for networks without a pyramid, too
VIEW_NAMES = (*CROPPED, "ten-on-maps", "96-on-maps", "full", "all")
