"""Hierarchical grouping of segments (Uijlings et al., IJCV 2013, section 3.1), by numba."""

from __future__ import annotations

import heapq

import numba
import numpy as np

from proposals.segmentation import find_root

COLOUR_BINS = 25
TEXTURE_BINS = 10
DIRECTIONS = 8
COLOURS = 3 * COLOUR_BINS
VALUES = COLOURS + 3 * DIRECTIONS * TEXTURE_BINS


@numba.njit(cache=True, nogil=True)
def describe_pixels(image, smooth):  # type: ignore[no-untyped-def]
    """Say into which bins of a segment's histogram each pixel counts.

    Its texture are the derivatives in eight directions; four of them are the others' negatives.
    Each that is below zero counts into its bin 0; counts in bin 0 are not listed here.

    Parameters
    ----------
    image : uint8 (H, W, 3)
        In any colour space.
    smooth : float32 (H, W, 3)
        The image after a Gaussian.

    Returns
    -------
    int16 (H · W, 15)
        A bin per channel of colour, then of texture; −1 for bin 0 of a texture.
    """
    height, width = image.shape[:2]
    bins = np.empty((height * width, 15), np.int16)
    for y in range(height):
        above, below = max(y - 1, 0), min(y + 1, height - 1)
        for x in range(width):
            left, right = max(x - 1, 0), min(x + 1, width - 1)
            row = bins[y * width + x]
            for c in range(3):
                row[c] = c * COLOUR_BINS + image[y, x, c] * COLOUR_BINS // 256
                across = smooth[y, right, c] - smooth[y, left, c]
                down = smooth[below, x, c] - smooth[above, x, c]
                falling = (smooth[below, right, c] - smooth[above, left, c]) * np.float32(0.7071)
                rising = (smooth[above, right, c] - smooth[below, left, c]) * np.float32(0.7071)
                first = COLOURS + c * DIRECTIONS * TEXTURE_BINS
                row[3 + 4 * c] = _find_bin(across, first)
                row[4 + 4 * c] = _find_bin(down, first + 2 * TEXTURE_BINS)
                row[5 + 4 * c] = _find_bin(falling, first + 4 * TEXTURE_BINS)
                row[6 + 4 * c] = _find_bin(rising, first + 6 * TEXTURE_BINS)
    return bins


_STEP = 8.0  # grey levels of a texture bin; derivatives past the last bin count into it


@numba.njit(cache=True, nogil=True, inline="always")
def _find_bin(derivative, first):  # type: ignore[no-untyped-def]
    if derivative < 0:
        first += TEXTURE_BINS
        derivative = -derivative
    step = int(derivative / np.float32(_STEP))
    return -1 if step == 0 else first + min(step, TEXTURE_BINS - 1)


@numba.njit(cache=True, nogil=True)
def describe_segments(labels, count, bins, width):  # type: ignore[no-untyped-def]
    """Measure segments: their histograms, sizes, boxes and which of them touch.

    Parameters
    ----------
    labels : int32 (H · W,)
        Segment of each pixel.
    count : int
        Number of segments S.
    bins : int16 (H · W, 15)
        Of `describe_pixels`.
    width : int
        Of the image, in pixels.

    Returns
    -------
    histograms : float32 (S, VALUES)
        Colour and texture each sum to 1.
    sizes : int32 (S,)
        In pixels.
    boxes : int32 (S, 4)
        x1 y1 x2 y2, half-open.
    pairs : int64 (P,)
        a · S + b of touching segments a < b, sorted.
    """
    counts = np.zeros((count, VALUES), np.int32)
    sizes = np.zeros(count, np.int32)
    boxes = np.empty((count, 4), np.int32)
    boxes[:, :2] = 1 << 30
    boxes[:, 2:] = 0
    touching = set()
    touching.add(np.int64(-1))
    height = len(labels) // width
    for y in range(height):
        for x in range(width):
            pixel = y * width + x
            s = labels[pixel]
            sizes[s] += 1
            box = boxes[s]
            box[0], box[1] = min(box[0], x), min(box[1], y)
            box[2], box[3] = max(box[2], x + 1), max(box[3], y + 1)
            for b in bins[pixel]:
                if b >= 0:
                    counts[s, b] += 1
            if x + 1 < width and labels[pixel + 1] != s:
                touching.add(_pair(s, labels[pixel + 1], count))
            if y + 1 < height:
                for right in range(max(x - 1, 0), min(x + 2, width)):
                    other = labels[pixel + width + right - x]
                    if other != s:
                        touching.add(_pair(s, other, count))
    touching.remove(np.int64(-1))
    pairs = np.array(list(touching), np.int64)
    pairs.sort()
    return _normalise(counts, sizes), sizes, boxes, pairs


@numba.njit(cache=True, nogil=True, inline="always")
def _pair(a, b, count):  # type: ignore[no-untyped-def]
    return np.int64(min(a, b)) * count + max(a, b)


@numba.njit(cache=True, nogil=True)
def _normalise(counts, sizes):  # type: ignore[no-untyped-def]
    histograms = np.empty(counts.shape, np.float32)
    for s in range(len(counts)):
        colour = np.float32(1 / (3 * sizes[s]))
        texture = np.float32(1 / (3 * DIRECTIONS * sizes[s]))
        for b in range(COLOURS):
            histograms[s, b] = counts[s, b] * colour
        for first in range(COLOURS, VALUES, TEXTURE_BINS):
            counts[s, first] = sizes[s]
            for b in range(first + 1, first + TEXTURE_BINS):
                counts[s, first] -= counts[s, b]
            for b in range(first, first + TEXTURE_BINS):
                histograms[s, b] = counts[s, b] * texture
    return histograms


# The sums of `_compare` may be taken in any order, but in one: compiled into this function, whose
# code is the same whether it was compiled just now or read from the cache.
@numba.njit(cache=True, nogil=True, fastmath=True)
def group_segments(histograms, sizes, boxes, pairs, pixels, with_colour):  # type: ignore[no-untyped-def]
    """Join the two most similar neighbours again and again, until one region is left.

    Similarity is the sum of texture, size and fill, with or without colour.

    Parameters
    ----------
    histograms, sizes, boxes, pairs : numpy.ndarray
        Of `describe_segments`.
    pixels : int
        Of the image.
    with_colour : bool
        Whether similarity of colour is added.

    Returns
    -------
    int32 (R, 4)
        The boxes of all regions: the segments, then the joined ones in their order.
    """
    count = len(sizes)
    most = 2 * count - 1
    values = np.empty((most, VALUES), np.float32)
    values[:count] = histograms
    areas = np.empty(most, np.int32)
    areas[:count] = sizes
    extents = np.empty((most, 4), np.int32)
    extents[:count] = boxes
    into = np.arange(most).astype(np.int32)  # the region that a joined one went into
    start = np.empty(most + 1, np.int64)  # of each region's neighbours in `near`
    near = _list_neighbours(pairs, count, start)
    used = start[count]
    seen = np.full(most, -1, np.int32)
    queue = [(np.float32(0), np.int32(0), np.int32(0))]
    queue.clear()
    for pair in pairs:
        a, b = np.int32(pair // count), np.int32(pair % count)
        likeness = _compare(values, extents, a, b, pixels, with_colour)
        queue.append((-likeness, a, b))
    heapq.heapify(queue)
    region = count
    while len(queue):
        _, a, b = heapq.heappop(queue)
        if into[a] != a or into[b] != b:
            continue
        _merge(values, areas, extents, a, b, region)
        into[a] = into[b] = region
        seen[region] = region
        room = start[a + 1] - start[a] + start[b + 1] - start[b]
        if used + room > len(near):
            longer = np.empty(2 * (used + room), np.int32)
            longer[:used] = near[:used]
            near = longer
        start[region] = used
        for old in (a, b):
            for n in range(start[old], start[old + 1]):
                other = find_root(into, near[n])
                if seen[other] != region:
                    seen[other] = region
                    near[used] = other
                    used += 1
                    likeness = _compare(values, extents, other, region, pixels, with_colour)
                    heapq.heappush(queue, (-likeness, np.int32(other), np.int32(region)))
        start[region + 1] = used
        region += 1
    return extents[:region]


@numba.njit(cache=True, nogil=True)
def _list_neighbours(pairs, count, start):  # type: ignore[no-untyped-def]
    degrees = np.zeros(count, np.int64)
    for pair in pairs:
        degrees[pair // count] += 1
        degrees[pair % count] += 1
    start[0] = 0
    start[1 : count + 1] = np.cumsum(degrees)
    near = np.empty(max(64, 8 * start[count]), np.int32)
    places = start[:count].copy()
    for pair in pairs:
        a, b = pair // count, pair % count
        near[places[a]] = b
        near[places[b]] = a
        places[a] += 1
        places[b] += 1
    return near


@numba.njit(nogil=True, inline="always")
def _compare(values, extents, a, b, pixels, with_colour):  # type: ignore[no-untyped-def]
    first, second = values[a], values[b]
    shared = np.float32(0)
    for v in range(0 if with_colour else COLOURS, VALUES):
        shared += min(first[v], second[v])
    wide = max(extents[a, 2], extents[b, 2]) - min(extents[a, 0], extents[b, 0])
    high = max(extents[a, 3], extents[b, 3]) - min(extents[a, 1], extents[b, 1])
    # Size's 1 − (a + b) / pixels and fill's 1 − (box − a − b) / pixels.
    return np.float32(shared + 2 - np.float32(wide * high) / np.float32(pixels))


@numba.njit(cache=True, nogil=True)
def _merge(values, areas, extents, a, b, region):  # type: ignore[no-untyped-def]
    areas[region] = areas[a] + areas[b]
    share = np.float32(areas[a]) / np.float32(areas[region])
    for v in range(VALUES):
        values[region, v] = share * values[a, v] + (np.float32(1) - share) * values[b, v]
    for i in range(2):
        extents[region, i] = min(extents[a, i], extents[b, i])
        extents[region, 2 + i] = max(extents[a, 2 + i], extents[b, 2 + i])
