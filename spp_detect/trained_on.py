"""Which photographs a run was trained on, so that nobody measures on them unawares."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data import UNSPLIT, LabelledSet, Photograph, select_photographs, split_stratified
from spp_detect.files import write_json
from spp_detect.model_folder import ModelError

logger = logging.getLogger(__name__)

Parts = dict[str, list[str]]
File = tuple[str, int]  # its name and its size in bytes: the same in whatever format it is labelled

HELD_OUT = 0.2  # of a set without splits
SPLIT, PHOTOGRAPHS = "split.json", "photographs.json"  # in a run's folder


def hold_out(dataset: LabelledSet, run: Path, seed: int) -> tuple[LabelledSet, LabelledSet]:
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
    tuple of two LabelledSet
        What remains to train on, and what is held out, for `save_split`.
    """
    held = _read_files(run / SPLIT)
    if held is None:
        train, test = split_stratified(dataset, HELD_OUT, seed)
    else:
        test = [one.name for one in dataset if _find_file(one) in held]
        train = [one.name for one in dataset if _find_file(one) not in held]
    logger.warning(
        "%s: has no splits: %d photographs to train on, %d held out for `evaluate` (%s); "
        "--split %s trains on all",
        dataset.root,
        len(train),
        len(test),
        run / SPLIT,
        UNSPLIT,
    )
    return select_photographs(dataset, train, "train"), select_photographs(dataset, test, "test")


def save_split(held_out: LabelledSet, run: Path) -> None:
    """Write down what was held out."""
    write_json(run / SPLIT, [_find_file(photograph) for photograph in held_out])


def find_held_out(dataset: LabelledSet, run: Path) -> LabelledSet:
    """Find what a run held out of a set without splits; all of it where that is not this set."""
    held = _read_files(run / SPLIT) if dataset.split == UNSPLIT else None
    names = [one.name for one in dataset if held and _find_file(one) in held]
    if not names:
        return dataset
    logger.warning(
        "%s: the %d of %d photographs that were held out in training; --split %s takes all",
        dataset.root,
        len(names),
        len(dataset),
        UNSPLIT,
    )
    return select_photographs(dataset, names, "test")


def record_photographs(dataset: Iterable[Photograph], run: Path) -> None:
    """Write down the photographs of a run."""
    write_json(run / PHOTOGRAPHS, sorted(set(map(_find_file, dataset))))


def count_seen(dataset: LabelledSet, runs: Iterable[Path]) -> int:
    """Count the photographs that any of some models was trained on."""
    seen: set[File] = set()
    for run in runs:
        seen |= _read_files(run / PHOTOGRAPHS) or set()
    return sum(_find_file(photograph) in seen for photograph in dataset)


def warn_of_seen(dataset: LabelledSet, runs: Iterable[Path]) -> int:
    """Say how many of the photographs were trained on, if any: their number."""
    seen = count_seen(dataset, runs)
    if seen:
        logger.warning(
            "%s: %d of the %d photographs were trained on: new ones will be harder",
            dataset.root,
            seen,
            len(dataset),
        )
    return seen


def carry_over(models: Iterable[Path], out: Path, more: Iterable[Photograph] = ()) -> None:
    """Let a model that is made of others know what they were trained on, and what held out."""
    seen = set(map(_find_file, more))
    known = bool(seen)
    for model in models:
        files = _read_files(model / PHOTOGRAPHS)
        known = known or files is not None
        seen |= files or set()
        held = _read_files(model / SPLIT)
        if held is not None:
            write_json(out / SPLIT, sorted(held))
    if known:
        write_json(out / PHOTOGRAPHS, sorted(seen))


def _find_file(photograph: Photograph) -> File:
    return photograph.path.name, photograph.path.stat().st_size


def _read_files(path: Path) -> set[File] | None:
    """Read names and sizes; None where there is no such file."""
    if not path.is_file():
        return None
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
        return {(str(name), int(size)) for name, size in values}
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: not a list of files' names and sizes: {error}") from error
