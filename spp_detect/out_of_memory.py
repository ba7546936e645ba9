"""Photographs for which the memory does not suffice: one's failure, not the run's."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data import MemoryShortageError

# NumPy's, torch's on a GPU and on the CPU, OpenCV's; the last two are known by their words.
ERRORS = (MemoryError, torch.OutOfMemoryError, RuntimeError, cv2.error)
WORDS = ("can't allocate memory", "Insufficient memory", "Failed to allocate", "out of memory")


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
