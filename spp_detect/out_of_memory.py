"""Where memory does not suffice: a smaller batch on a GPU, else one photograph's failure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data import MemoryShortageError

logger = logging.getLogger(__name__)

# NumPy's, torch's on a GPU and on the CPU, OpenCV's; the last two are known by their words.
ERRORS = (MemoryError, torch.OutOfMemoryError, RuntimeError, cv2.error)
WORDS = (
    "can't allocate memory",
    "Insufficient memory",
    "Failed to allocate",
    "out of memory",
    "ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, ERRORS) and any(words in str(error) for words in WORDS)


def tell_out_of_memory(path: Path, photo: NDArray[np.uint8]) -> MemoryShortageError:
    """Make the error of a photograph, uint8 (H, W, 3), that the memory does not suffice for."""
    height, width = photo.shape[:2]
    told = f"out of memory at {width} x {height} pixels; expected a smaller one, or more memory"
    return MemoryShortageError(" ".join(f"{path}: {told}".splitlines()))


def work_in_batches(work: Callable[[int, int], None], count: int, size: int, least: int = 1) -> int:
    """Do a work on rows, batch by batch; where a GPU's memory does not suffice, in smaller ones.

    Parameters
    ----------
    work : callable
        Takes the first row of a batch and the batch's size; the last batch may be of fewer rows.
    count : int
        Rows in all.
    size : int
        Of a batch, to begin with.
    least : int
        The size that is not halved.

    Returns
    -------
    int
        The size that sufficed, for the next time.

    Raises
    ------
    torch.OutOfMemoryError
        Where the memory does not suffice for the least batch.
    """
    start = 0
    while start < count:
        if _fits(work, start, size, least):
            start += size
        else:  # no longer in its handling, which would keep the batch's tensors
            logger.warning("out of memory on the GPU in batches of %d: halved", size)
            size //= 2
            torch.cuda.empty_cache()
    return size


def _fits(work: Callable[[int, int], None], start: int, size: int, least: int) -> bool:
    try:
        work(start, size)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if size <= least or not is_out_of_memory(error):
            raise
        return False
    return True
