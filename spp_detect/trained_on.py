"""Which photographs a run was trained on, so that nobody measures on them unawares."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from data import UNSPLIT, LabelledSet, select_photographs, split_stratified
from spp_detect.files import write_json

logger = logging.getLogger(__name__)

Parts = dict[str, list[str]]

HELD_OUT = 0.2  # of a set without splits
SPLIT, PHOTOGRAPHS = "split.json", "photographs.json"  # in a run's folder


def hold_out(dataset: LabelledSet, run: Path, seed: int) -> tuple[LabelledSet, Parts]:
    """Hold out a part of a set without splits, for `evaluate`.

    Parameters
    ----------
    dataset : LabelledSet
        The whole set.
    run : Path
        The run's folder, where an earlier start's choice stands.
    seed : int
        Of the choice.

    Returns
    -------
    LabelledSet
        What remains to train on.
    dict of str to list of str
        Names of photographs by "train" and "test", for `save_split`.
    """
    parts: Parts | None = _read(run / SPLIT)
    if parts is None:
        train, test = split_stratified(dataset, HELD_OUT, seed)
        parts = {"train": train, "test": test}
    logger.warning(
        "%s: has no splits: %d photographs to train on, %d held out for `evaluate` (%s); "
        "--split %s trains on all",
        dataset.root,
        len(parts["train"]),
        len(parts["test"]),
        run / SPLIT,
        UNSPLIT,
    )
    return select_photographs(dataset, parts["train"], "train"), parts


def save_split(parts: Parts, run: Path) -> None:
    """Write down what was held out."""
    write_json(run / SPLIT, parts)


def find_held_out(dataset: LabelledSet, run: Path, split: str) -> LabelledSet:
    """Find the part of a set without splits that a run held out, or trained on; else all of it."""
    parts = _read(run / SPLIT) or {}
    if dataset.split != UNSPLIT or split not in parts:
        return dataset
    found = select_photographs(dataset, parts[split], split)
    return found if len(found) else dataset


def record_photographs(dataset: LabelledSet, run: Path) -> None:
    """Write down the photographs of a run: their files' names and sizes."""
    sizes = {photograph.path.name: photograph.path.stat().st_size for photograph in dataset}
    write_json(run / PHOTOGRAPHS, sizes)


def count_seen(dataset: LabelledSet, runs: list[Path]) -> int:
    """Count the photographs that any of some runs was trained on, by their files' name and size."""
    seen: set[tuple[str, int]] = set()
    for run in runs:
        seen.update((_read(run / PHOTOGRAPHS) or {}).items())
    return sum((p.path.name, p.path.stat().st_size) in seen for p in dataset)


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
