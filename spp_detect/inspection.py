"""What a labelled set holds, and what is wrong with it, before anything is trained on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data import (
    DEFAULT_MAX_SIDE,
    DataError,
    Fault,
    LabelledSet,
    leave_out_unreadable,
    list_splits,
    open_dataset,
)
from spp_detect.threads import get_threads

JOINED = "trainval"  # the split that holds others' photographs


@dataclass(frozen=True)
class ClassCounts:
    """The boxes of one class in one split.

    Attributes
    ----------
    boxes, difficult : int
        All of them, and those among them that are difficult.
    photographs : int
        That show any.
    side : float
        Median of the square roots of their areas, in pixels; NaN where there is none.
    """

    boxes: int
    difficult: int
    photographs: int
    side: float


@dataclass(frozen=True)
class Inspection:
    """What was found in a labelled set.

    Attributes
    ----------
    classes : dict of str to dict of str to ClassCounts
        By the split's name and the class's.
    photographs : dict of str to int
        By the split's name.
    faults : tuple of Fault
        Of all splits, each once.
    shared : dict of str to list of str
        Photographs that stand in two splits, by "ONE and OTHER".
    """

    classes: dict[str, dict[str, ClassCounts]]
    photographs: dict[str, int]
    faults: tuple[Fault, ...]
    shared: dict[str, list[str]]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and not self.shared


def inspect_set(
    path: Path, split: str | None = None, max_side: int = DEFAULT_MAX_SIDE
) -> Inspection:
    """Read a labelled set's annotations and decode its photographs.

    Parameters
    ----------
    path : Path
        As `data.open_dataset` takes it.
    split : str, optional
        The only one to look at; by default all.
    max_side : int
        Largest side of a photograph in pixels.

    Raises
    ------
    DataError
        For what is no labelled set, and for a split of which nothing can be read.
    """
    names = [split] if split is not None else list_splits(path)
    if not names:
        raise DataError(f"{path}: has no split; expected lists of photographs in ImageSets/Main")
    if {"train", "val"} & set(names):
        names = [name for name in names if name != JOINED]
    sets = [
        leave_out_unreadable(open_dataset(path, name, max_side=max_side), max_side, get_threads())
        for name in names
    ]
    faults = dict.fromkeys(fault for one in sets for fault in one.faults)
    return Inspection(
        {one.split: _count_classes(one) for one in sets},
        {one.split: len(one) for one in sets},
        tuple(faults),
        _find_shared(sets),
    )


def _count_classes(dataset: LabelledSet) -> dict[str, ClassCounts]:
    labels = [photograph.labels for photograph in dataset]
    classes = np.concatenate([one.classes for one in labels])
    difficult = np.concatenate([one.difficult for one in labels])
    boxes = np.concatenate([one.boxes for one in labels])
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    owners = np.repeat(np.arange(len(labels)), [len(one) for one in labels])
    counts = {}
    for c, name in enumerate(dataset.classes):
        own = classes == c
        side = float(np.median(sides[own])) if own.any() else float("nan")
        shown = len(np.unique(owners[own]))
        counts[name] = ClassCounts(int(own.sum()), int(difficult[own].sum()), shown, side)
    return counts


def _find_shared(sets: list[LabelledSet]) -> dict[str, list[str]]:
    files = {one.split: {photograph.path: photograph.name for photograph in one} for one in sets}
    shared = {}
    for i, one in enumerate(files):
        for other in list(files)[i + 1 :]:
            both = sorted(name for path, name in files[one].items() if path in files[other])
            if both:
                shared[f"{one} and {other}"] = both
    return shared
