"""Graph segmentation (Felzenszwalb and Huttenlocher, IJCV 2004), compiled by numba."""

from __future__ import annotations

import numba
import numpy as np

_STEPS = 16  # of a weight, per grey level: weights are sorted by counting
_LEVELS = 1 << 13  # 511 grey levels: no weight of three channels is above 255 √3


@numba.njit(cache=True, nogil=True)
def sort_edges(image):  # type: ignore[no-untyped-def]
    """Sort the edges between neighbouring pixels, of eight, by their difference in colour.

    Parameters
    ----------
    image : float32 (H, W, 3)
        Values 0 to 255.

    Returns
    -------
    edges : int32 (E,)
        Pixel · 4 + direction, the most alike first.
    starts : int64 (``_LEVELS`` + 1,)
        The first edge of each weight, in sixteenths of a grey level.
    """
    height, width = image.shape[:2]
    weights = np.empty((height, width, 4), np.int16)
    counts = np.zeros(_LEVELS + 1, np.int64)
    for y in range(height):
        for x in range(width):
            for d in range(4):
                down, right = y + _DOWN[d], x + _RIGHT[d]
                if down >= height or right >= width or right < 0:
                    weights[y, x, d] = -1
                    continue
                total = np.float32(0)
                for c in range(3):
                    difference = image[y, x, c] - image[down, right, c]
                    total += difference * difference
                weight = int(np.sqrt(total) * np.float32(_STEPS) + np.float32(0.5))
                weights[y, x, d] = weight
                counts[weight + 1] += 1
    starts = np.cumsum(counts)
    places = starts.copy()
    edges = np.empty(starts[-1], np.int32)
    flat = weights.reshape(-1)
    for e in range(len(flat)):
        if flat[e] >= 0:
            edges[places[flat[e]]] = e
            places[flat[e]] += 1
    return edges, starts


@numba.njit(cache=True, nogil=True)
def segment(edges, starts, height, width, k, least):  # type: ignore[no-untyped-def]
    """Segment an image whose edges are sorted.

    Parameters
    ----------
    edges, starts : numpy.ndarray
        Of `sort_edges`.
    height, width : int
        Of the image, in pixels.
    k : float
        Grey levels; the larger, the larger the segments.
    least : int
        Pixels of the smallest segment.

    Returns
    -------
    labels : int32 (H · W,)
        Numbered from 0 in the order of their first pixels.
    count : int
        Number of segments.
    """
    parent = np.arange(height * width).astype(np.int32)
    size = np.ones(height * width, np.int32)
    bound = np.full(height * width, np.float32(k * _STEPS))  # inner difference + k / size
    steps = np.array((1, width, width + 1, width - 1), np.int32)
    left = np.empty(len(edges), np.int32)  # edges between segments, for the small ones
    count_left = 0
    for weight in range(len(starts) - 1):
        for edge in edges[starts[weight] : starts[weight + 1]]:
            pixel = edge >> 2
            other = pixel + steps[edge & 3]
            if parent[pixel] == parent[other]:
                continue
            a, b = find_root(parent, pixel), find_root(parent, other)
            if a == b:
                continue
            if weight <= bound[a] and weight <= bound[b]:
                a = _join(parent, size, a, b)
                bound[a] = np.float32(weight) + np.float32(k * _STEPS) / size[a]
            else:
                left[count_left] = edge
                count_left += 1
    for edge in left[:count_left]:
        pixel = edge >> 2
        a, b = find_root(parent, pixel), find_root(parent, pixel + steps[edge & 3])
        if a != b and (size[a] < least or size[b] < least):
            _join(parent, size, a, b)
    return _number(parent)


_DOWN = (0, 1, 1, 1)
_RIGHT = (1, 0, 1, -1)


@numba.njit(cache=True, nogil=True, inline="always")
def find_root(parent, pixel):  # type: ignore[no-untyped-def]
    """Follow parents to the one that is its own, halving the path on the way."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return pixel


@numba.njit(cache=True, nogil=True, inline="always")
def _join(parent, size, a, b):  # type: ignore[no-untyped-def]
    if size[a] < size[b]:
        a, b = b, a
    parent[b] = a
    size[a] += size[b]
    return a


@numba.njit(cache=True, nogil=True)
def _number(parent):  # type: ignore[no-untyped-def]
    labels = np.full(len(parent), -1, np.int32)
    count = 0
    for pixel in range(len(parent)):
        root = find_root(parent, pixel)
        if labels[root] < 0:
            labels[root] = count
            count += 1
        # A root may lie behind this pixel: its number is read again when its turn comes.
        parent[pixel] = root
    roots = labels.copy()
    for pixel in range(len(parent)):
        labels[pixel] = roots[parent[pixel]]
    return labels, count
