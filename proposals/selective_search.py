"""Selective search (Uijlings et al., IJCV 2013)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from proposals.grouping import describe_pixels, describe_segments, group_segments
from proposals.segmentation import segment, sort_edges

_SIGMA = 0.8
_SPACES = (cv2.COLOR_RGB2HSV_FULL, cv2.COLOR_RGB2Lab)
# k, and least pixels of a segment: the release's fast mode, and one with coarser segments, which
# has more windows around each object.
SEGMENTS = {"selective-search": (50, 100), "selective-search-dense": (100, 200, 400)}
_PLACE_POWER = 3  # above 1, large regions come sooner: more objects among the first 1,000 windows


def search_selectively(
    photo: NDArray[np.uint8], segments: tuple[int, ...], seed: int
) -> NDArray[np.float64]:
    """Return the windows of selective search, best first.

    HSV and Lab, colour + texture + size + fill and texture + size + fill, as the release's fast
    mode has them. The colour spaces go to a thread each; their strategies share edges, segments
    and histograms.

    A window's order is its place in its hierarchy, from the whole image on, to a power, times a
    uniform random number; the smallest product comes first.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB, at the size to work at.
    segments : tuple of int
        The k of each segmentation in grey levels, also the least pixels of its segments.
    seed : int
        Seed of the random numbers.

    Returns
    -------
    float64 (N, 4)
        Half-open boxes in pixels of ``photo``; some come several times.
    """
    with ThreadPoolExecutor(len(_SPACES)) as pool:
        spaces = pool.map(partial(_search_space, photo, segments), _SPACES)
        hierarchies = [boxes for space in spaces for boxes in space]
    random = np.random.default_rng(seed)
    places = [
        random.random(len(h)) * np.arange(len(h), 0.0, -1.0) ** _PLACE_POWER for h in hierarchies
    ]
    boxes = np.concatenate(hierarchies)[np.argsort(np.concatenate(places), kind="stable")]
    return boxes.astype(np.float64)


def _search_space(
    photo: NDArray[np.uint8], segments: tuple[int, ...], space: int
) -> list[NDArray[np.int32]]:
    """Boxes of a colour space's hierarchies, two of each segmentation."""
    image = cv2.cvtColor(photo, space)
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), _SIGMA)
    height, width = image.shape[:2]
    edges, starts = sort_edges(smooth)
    bins = describe_pixels(image, smooth)
    hierarchies = []
    for k in segments:
        labels, count = segment(edges, starts, height, width, k, k)
        described = describe_segments(labels, count, bins, width)
        hierarchies += [group_segments(*described, height * width, colour) for colour in (1, 0)]
    return hierarchies
