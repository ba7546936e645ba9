"""Photographs read and their windows proposed in threads, ahead of who consumes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from data import DEFAULT_MAX_SIDE, DataError, read_photo
from proposals import BoxesFile, ProposalCache, ProposalSettings, propose
from spp_detect.heap import hand_back
from spp_detect.out_of_memory import ERRORS, is_out_of_memory, tell_out_of_memory
from spp_detect.threads import get_threads

Photo = NDArray[np.uint8]
Windows = NDArray[np.float32]
WindowSource = Callable[[Path, Photo], Windows]
Item = TypeVar("Item")
Result = TypeVar("Result")

PHOTOGRAPHS_BETWEEN_TRIMS = 16


def search_windows(settings: ProposalSettings, cache: ProposalCache | None = None) -> WindowSource:
    """Make a source that proposes windows by a method, or finds them in a cache."""

    def source(path: Path, photo: Photo) -> Windows:
        return propose(photo, settings) if cache is None else cache.propose(path, photo, settings)

    return source


def read_windows(boxes: BoxesFile, max_windows: int) -> WindowSource:
    """Make a source that takes the first windows of a boxes file, by the photograph's name.

    Boxes are clipped to the photograph; ProposalError where the file has none for it.
    """

    def source(path: Path, photo: Photo) -> Windows:
        height, width = photo.shape[:2]
        clipped = boxes.find(path.stem).clip(0, np.array([width, height] * 2, np.float32))
        whole = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        return clipped[whole][:max_windows]

    return source


def prepare_photos(
    paths: Sequence[Path], source: WindowSource, max_side: int = DEFAULT_MAX_SIDE
) -> Iterator[tuple[Path, tuple[Photo, Windows] | DataError]]:
    """Read photographs and find their windows in threads, a few ahead.

    Parameters
    ----------
    paths : sequence of Path
        The photographs' files.
    source : callable
        Gives the windows of a photograph, float32 (N, 4).
    max_side : int
        Largest side of a photograph in pixels.

    Yields
    ------
    tuple of Path and (photograph, windows), or of Path and DataError
        In the order of `paths`; the error is that of a photograph that cannot be read, or for
        which the memory does not suffice.
    """

    def prepare(path: Path) -> tuple[Photo, Windows] | DataError:
        try:
            photo = read_photo(path, max_side)
        except DataError as error:
            return error
        try:
            return photo, source(path, photo)
        except ERRORS as error:
            if not is_out_of_memory(error):
                raise
            return tell_out_of_memory(path, photo)

    for done, prepared in enumerate(zip(paths, work_ahead(prepare, paths), strict=True), 1):
        yield prepared
        if done % PHOTOGRAPHS_BETWEEN_TRIMS == 0:
            hand_back()


def work_ahead(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Do a work on items in threads, a few ahead of who takes the results, in their order.

    An error of the work is raised where its result is taken.
    """
    workers = get_threads()
    waiting = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        futures = deque(pool.submit(work, item) for item in islice(waiting, 2 * workers))
        try:
            while futures:
                yield futures.popleft().result()
                futures.extend(pool.submit(work, item) for item in islice(waiting, 1))
        finally:
            for future in futures:
                future.cancel()
