"""The two systems that SPP grew out of, as the paper tells in section 1.

A bag of visual words (Csurka et al. 2004; Sivic and Zisserman 2003): SIFT descriptors on a grid,
each called by the nearest of some words, and how often each word occurs. Spatial pyramid matching
(Lazebnik, Schmid, Ponce 2006): the same counted in 1×1, 2×2 and 4×4 bins of the photograph, and
compared by the intersection of histograms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.cluster import MiniBatchKMeans

from data import DEFAULT_MAX_SIDE, read_photo
from spp_detect.classification.description import Description, multiply, normalise
from spp_detect.classification.image_view import view_photo
from spp_detect.config import ConfigError
from spp_detect.progress import track

STEP, PATCH = 8, 16  # pixels, as Lazebnik's
SIFT_WIDTH = 6  # times a keypoint's size: OpenCV's descriptor has 4 bins of 1.5 sizes
DESCRIPTORS = 200_000  # that words are learnt from
# Weights of the levels: a match in a finer bin is worth more (Lazebnik, equation 3).
BAG: Mapping[int, float] = {1: 1.0}
PYRAMID: Mapping[int, float] = {1: 0.25, 2: 0.25, 4: 0.5}

Photo = NDArray[np.uint8]
Rows = NDArray[np.float32]


def compute_sift(photo: Photo) -> tuple[Rows, NDArray[np.float64]]:
    """Compute upright SIFT descriptors of patches of 16×16 pixels, 8 pixels apart.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB, at least 16 pixels a side.

    Returns
    -------
    descriptors : float32 (M, 128)
        Row by row.
    places : float64 (M, 2)
        The patches' centres, x and y as fractions of the width and the height.
    """
    height, width = photo.shape[:2]
    ys, xs = (np.arange(PATCH / 2, side - PATCH / 2 + 1, STEP) for side in (height, width))
    # An angle of 0: of OpenCV's default, -1, it would make a turn of one degree.
    points = [cv2.KeyPoint(float(x), float(y), PATCH / SIFT_WIDTH, 0.0) for y in ys for x in xs]
    grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
    _, descriptors = cv2.SIFT.create().compute(grey, points)
    places = np.array([point.pt for point in points]) / (width, height)
    return np.asarray(descriptors, np.float32), places


def learn_words(
    paths: Sequence[Path],
    view: Callable[[Photo], Photo],
    count: int,
    seed: int,
    max_side: int = DEFAULT_MAX_SIDE,
) -> Rows:
    """Learn words: the centres of k-means of descriptors drawn from photographs alike.

    Parameters
    ----------
    paths : sequence of pathlib.Path
        The photographs; no label is looked at.
    view : callable
        What of a photograph is described.
    count : int
        How many words.
    seed : int
        Of what is drawn, and of k-means.
    max_side : int
        Widest and highest photograph accepted, in pixels.

    Returns
    -------
    float32 (count, 128)
        The words.

    Raises
    ------
    ConfigError
        For more words than descriptors.
    """
    random = np.random.default_rng(seed)
    each = -(-DESCRIPTORS // len(paths))
    drawn = []
    for path in track(paths, "words"):
        descriptors, _ = compute_sift(view(read_photo(path, max_side)))
        drawn.append(random.permutation(descriptors)[:each])
    pool = np.concatenate(drawn)
    if count > len(pool):
        raise ConfigError(f"words {count}: expected at most the {len(pool)} patches there are")
    means = MiniBatchKMeans(count, n_init=3, batch_size=4096, random_state=seed).fit(pool)
    return np.asarray(means.cluster_centers_, np.float32)


def name_words(descriptors: Rows, words: Rows) -> NDArray[np.int64]:
    """Find the nearest word, by its number, of each descriptor: (M, 128) and (K, 128) give (M,)."""
    return (descriptors @ words.T - (words**2).sum(axis=1) / 2).argmax(axis=1)


def count_words(
    named: NDArray[np.int64], places: NDArray[np.float64], words: int, levels: Mapping[int, float]
) -> Rows:
    """Count words in the bins of each level, as shares of all patches times the level's weight.

    Parameters
    ----------
    named : int64 (M,)
        Each patch's word.
    places : float64 (M, 2)
        As `compute_sift` gives them.
    words : int
        How many there are.
    levels : mapping of int to float
        Weights by the side of the level's grid.

    Returns
    -------
    float32 (D,)
        Level after level, bin after bin, row by row; their sum is that of the weights.

    Examples
    --------
    >>> named, places = np.array([0, 1, 1, 1]), np.array([[0.2, 0.2], [0.8, 0.2]] * 2)
    >>> count_words(named, places, 2, {1: 1.0}).tolist()
    [0.25, 0.75]
    >>> count_words(named, places, 2, {2: 0.5}).tolist()
    [0.125, 0.125, 0.0, 0.25, 0.0, 0.0, 0.0, 0.0]
    """
    parts = []
    for side, weight in levels.items():
        columns, rows = (places * side).astype(np.int64).T
        counts = np.bincount((rows * side + columns) * words + named, minlength=side**2 * words)
        parts.append(weight * counts / len(named))
    return np.concatenate(parts).astype(np.float32)


def intersect(one: Rows, other: Rows) -> Rows:
    """Compare histograms (N, D) and (M, D) by the sums of their bins' minima, (N, M).

    Examples
    --------
    >>> intersect(np.array([[0.25, 0.75]]), np.array([[0.5, 0.5], [0.0, 1.0]])).tolist()
    [[0.75, 0.75]]
    """
    # min(a, b) = (a + b - |a - b|) / 2
    total = one.sum(axis=1)[:, None] + other.sum(axis=1)
    return np.asarray((total - cdist(one, other, "cityblock")) / 2, np.float32)


def describe_by_words(words: Rows, view: Callable[[Photo], Photo], *, pyramid: bool) -> Description:
    """Describe photographs by how often they show each word.

    Parameters
    ----------
    words : float32 (K, 128)
        As `learn_words` gives them.
    view : callable
        What of a photograph is described.
    pyramid : bool
        Whether words are counted in the pyramid's bins and histograms intersected; else they are
        counted in all, histograms brought to length 1 and multiplied.

    Returns
    -------
    Description
        Of K values, or 21 · K.
    """

    def count(photo: Photo) -> Rows:
        descriptors, places = compute_sift(view(photo))
        named = name_words(descriptors, words)
        return count_words(named, places, len(words), PYRAMID if pyramid else BAG)

    if pyramid:
        return Description(count, intersect)
    return Description(lambda photo: normalise(count(photo)), multiply)


def make_view(name: str, size: int) -> Callable[[Photo], Photo]:
    """Fix what `view_photo` is told besides the photograph."""
    return lambda photo: view_photo(photo, name, size)
