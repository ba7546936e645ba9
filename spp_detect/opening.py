"""Labelled sets and image folders as commands open them: what is wrong is told, and left out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from data import (
    DataError,
    ImageSet,
    LabelledSet,
    leave_out_unreadable,
    list_split_folders,
    open_dataset,
    open_image_folder,
    read_photo,
    summarise_faults,
)
from spp_detect.threads import get_threads

logger = logging.getLogger(__name__)


def open_checked(
    data: Path,
    split: str,
    classes: Sequence[str] | None,
    max_side: int,
    *,
    strict: bool = False,
) -> LabelledSet:
    """Open a labelled set, without the photographs that cannot be read; say what was wrong.

    Raises
    ------
    DataError
        As `open_dataset`, and with `strict` for any photograph that cannot be read.
    """
    dataset = open_dataset(data, split, classes, max_side)
    dataset = leave_out_unreadable(dataset, max_side, get_threads())
    return tell_what_is_wrong(dataset, data, strict=strict)


def tell_what_is_wrong(dataset: LabelledSet, data: Path, *, strict: bool = False) -> LabelledSet:
    """Log a set's faults and what was left out of it; DataError for faults where `strict`."""
    if dataset.faults:
        summary = summarise_faults(dataset.faults)
        if strict:
            raise DataError(f"{data}: {summary}; expected none with --strict")
        logger.warning("%s: %s; `spp-detect inspect` lists all", data, summary)
    if dataset.left_out:
        each = ", ".join(f"{count} {name}" for name, count in dataset.left_out.items())
        logger.warning("%s: objects of other classes left out: %s", data, each)
    for note in dataset.notes:
        logger.warning("%s: %s", data, note)
    return dataset


def open_checked_folder(data: Path, max_side: int) -> ImageSet:
    """Open a folder of class folders, without the photographs that cannot be read; name these.

    Raises
    ------
    DataError
        As `open_image_folder`, where no photograph can be read, and for a folder of splits.
    """
    splits = list_split_folders(data)
    if splits:
        raise DataError(
            f"{data}: holds the splits {', '.join(splits)}; expected one of them, a folder of "
            "photographs for each class"
        )
    images = open_image_folder(data)

    def check(path: Path) -> bool:
        try:
            read_photo(path, max_side)
        except DataError as error:
            logger.warning("%s; left out", error)
            return False
        return True

    with ThreadPoolExecutor(get_threads()) as pool:
        kept = np.array(list(pool.map(check, images.paths)))
    if not kept.any():
        raise DataError(f"{data}: none of the {len(kept)} photographs can be read")
    paths = tuple(path for path, whole in zip(images.paths, kept, strict=True) if whole)
    return replace(images, paths=paths, labels=images.labels[kept])
