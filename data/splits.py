"""What splits are called besides their names."""

from __future__ import annotations

# Roboflow calls the folder of "val" so.
ALIASES = {"val": ("val", "valid")}
# What trainval is where a set has only its parts.
PARTS = {"trainval": ("train", "val")}
UNSPLIT = "all"  # what the one split of a set is called that has no splits
SPLITS = ("train", "val", "trainval", "test")  # what the splits of a set are usually called
