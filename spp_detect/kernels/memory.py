"""Memory for large results, used again: to touch fresh memory first costs as much as to pool."""

from __future__ import annotations

import math
import weakref

import numpy as np
import numpy.typing as npt


class Recycler:
    """Hands out arrays and takes their memory back when nothing refers to them any more.

    Between results at most one piece of memory is kept, the largest that there was.
    """

    def __init__(self) -> None:
        self._kept: list[npt.NDArray[np.uint8]] = []

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Give an array of this shape and type with any content."""
        count = math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        try:
            memory = self._kept.pop()
        except IndexError:  # the kept piece is in use, here or in another thread
            memory = np.empty(0, np.uint8)
        if len(memory) < max(size, 1):
            memory = np.empty(max(size, 1), np.uint8)
        # All views and tensors made of the result refer to this one array, which alone refers to
        # the memory: with it the last of them is gone.
        array: npt.NDArray[np.generic] = np.frombuffer(memory.data, dtype, count)
        weakref.finalize(array, self._give_back, memory)
        return array.reshape(shape)

    def _give_back(self, memory: npt.NDArray[np.uint8]) -> None:
        if not self._kept or len(self._kept[0]) < len(memory):
            self._kept[:] = [memory]
