import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from proposals import ProposalSettings, propose
from proposals.grouping import (
    COLOUR_BINS,
    COLOURS,
    DIRECTIONS,
    TEXTURE_BINS,
    describe_pixels,
    describe_segments,
    group_segments,
)
from proposals.segmentation import segment, sort_edges
from proposals.selective_search import search_selectively

K = (50, 100)


def make_image(seed: int, height: int = 24, width: int = 31) -> np.ndarray:
    """Return rectangles of colour under noise, none as large as another, so that nothing ties."""
    random = np.random.default_rng(seed)
    image = np.empty((height, width, 3))
    image[:] = random.integers(0, 256, 3)
    for _ in range(height * width // 60):
        y, x = random.integers(0, height - 3), random.integers(0, width - 3)
        down, right = random.integers(3, 12, 2)
        image[y : y + down, x : x + right] = random.integers(0, 256, 3)
    return (image + random.normal(0, 9, image.shape)).clip(0, 255).astype(np.uint8)


def segment_slowly(image: np.ndarray, k: float, least: int) -> np.ndarray:
    """Felzenszwalb and Huttenlocher's algorithm over sets, weights in sixteenths."""
    height, width = image.shape[:2]
    edges = []
    for y in range(height):
        for x in range(width):
            for d, (down, right) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
                if y + down < height and 0 <= x + right < width:
                    difference = image[y, x].astype(float) - image[y + down, x + right]
                    weight = int(np.sqrt((difference**2).sum()) * 16 + 0.5)
                    a, b = y * width + x, (y + down) * width + x + right
                    edges.append((weight, 4 * a + d, a, b))
    sets = {p: {p} for p in range(height * width)}
    inner = dict.fromkeys(sets, 0.0)

    def find(p: int) -> int:
        return next(root for root, members in sets.items() if p in members)

    def join(a: int, b: int) -> int:
        sets[a] |= sets.pop(b)
        return a

    for weight, _, p, q in sorted(edges):
        a, b = find(p), find(q)
        bounds = [inner[r] + k * 16 / len(sets[r]) for r in (a, b)]
        if a != b and weight <= min(bounds):
            inner[join(a, b)] = weight
    for _, _, p, q in sorted(edges):
        a, b = find(p), find(q)
        if a != b and min(len(sets[a]), len(sets[b])) < least:
            join(a, b)
    labels = np.empty(height * width, int)
    for number, members in enumerate(sorted(sets.values(), key=min)):
        labels[sorted(members)] = number
    return labels


@pytest.mark.parametrize(
    ("seed", "k", "least"), [(0, 50, 20), (1, 100, 1), (2, 10, 60), (3, 400, 5)]
)
def test_segments_are_those_of_a_slow_reference(seed, k, least):
    image = make_image(seed).astype(np.float32)
    edges, starts = sort_edges(image)
    labels, count = segment(edges, starts, *image.shape[:2], k, least)
    wanted = segment_slowly(image, k, least)
    np.testing.assert_array_equal(labels, wanted)
    assert count == wanted.max() + 1
    assert count > 1


def test_edges_are_all_there_in_order_of_their_weights():
    image = make_image(4).astype(np.float32)
    height, width = image.shape[:2]
    edges, starts = sort_edges(image)
    wanted = height * (width - 1) + width * (height - 1) + 2 * (height - 1) * (width - 1)
    assert len(edges) == len(np.unique(edges)) == starts[-1] == wanted
    down, right = np.array([0, 1, 1, 1]), np.array([1, 0, 1, -1])
    y, x, d = edges // 4 // width, edges // 4 % width, edges % 4
    weights = np.linalg.norm(image[y, x] - image[y + down[d], x + right[d]], axis=1)
    assert (np.diff(weights) > -1 / 16 - 1e-4).all()


def measure_slowly(image: np.ndarray, smooth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Histograms by NumPy, all eight directions computed."""
    padded = np.pad(smooth.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    above, below = padded[:-2], padded[2:]
    across = padded[1:-1, 2:] - padded[1:-1, :-2]
    down = below[:, 1:-1] - above[:, 1:-1]
    falling = (below[:, 2:] - above[:, :-2]) * 0.7071
    rising = (above[:, 2:] - below[:, :-2]) * 0.7071
    histograms = []
    for s in range(labels.max() + 1):
        inside = (labels == s).reshape(image.shape[:2])
        row = []
        for c in range(3):
            bins = image[inside][:, c].astype(int) * COLOUR_BINS // 256
            row.append(np.bincount(bins, minlength=COLOUR_BINS) / 3)
        for c in range(3):
            for derivative in (across, down, falling, rising):
                for sign in (1, -1):
                    steps = (sign * derivative[inside][:, c] / 8).clip(0, TEXTURE_BINS - 1)
                    counts = np.bincount(steps.astype(int), minlength=TEXTURE_BINS)
                    row.append(counts / (3 * DIRECTIONS))
        histograms.append(np.concatenate(row) / inside.sum())
    return np.array(histograms)


def describe(seed: int, k: int = 60) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    image = make_image(seed)
    smooth = image.astype(np.float32)
    edges, starts = sort_edges(smooth)
    labels, count = segment(edges, starts, *image.shape[:2], k, 8)
    bins = describe_pixels(image, smooth)
    return image, labels, describe_segments(labels, count, bins, image.shape[1])


@pytest.mark.parametrize("seed", range(3))
def test_segments_measured_as_numpy_does(seed):
    image, labels, (histograms, sizes, boxes, pairs) = describe(seed)
    np.testing.assert_allclose(histograms, measure_slowly(image, image, labels), atol=1e-6)
    np.testing.assert_allclose(histograms[:, :COLOURS].sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(histograms[:, COLOURS:].sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(sizes, np.bincount(labels))
    grid = labels.reshape(image.shape[:2])
    touching = set()
    for s in range(len(sizes)):
        y, x = np.nonzero(grid == s)
        assert boxes[s].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        for i, j in zip(y, x, strict=True):
            near = grid[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            touching |= {
                min(s, o) * len(sizes) + max(s, o) for o in near.ravel().tolist() if o != s
            }
    assert pairs.tolist() == sorted(touching)


def group_slowly(
    segments: tuple[np.ndarray, ...], pixels: int, with_colour: bool
) -> list[list[int]]:
    """Compare every touching pair anew at every step."""
    histograms, sizes, boxes, pairs = segments
    count = len(sizes)
    regions = {s: (histograms[s].astype(float), int(sizes[s]), boxes[s]) for s in range(count)}
    touching = {(int(p // count), int(p % count)) for p in pairs}
    extents = boxes.tolist()

    def unite(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])

    def compare(pair: tuple[int, int]) -> float:
        (values, size, box), (others, other_size, other_box) = (regions[r] for r in pair)
        both = unite(box, other_box)
        together = size + other_size
        fill = 1 - ((both[2] - both[0]) * (both[3] - both[1]) - together) / pixels
        shared = np.minimum(values, others)
        colour = shared[:COLOURS].sum() if with_colour else 0
        return float(colour + shared[COLOURS:].sum() + 1 - together / pixels + fill)

    while touching:
        a, b = max(sorted(touching), key=compare)
        new = len(extents)
        (values, size, box), (others, other_size, other_box) = regions.pop(a), regions.pop(b)
        share = size / (size + other_size)
        regions[new] = (
            share * values + (1 - share) * others,
            size + other_size,
            unite(box, other_box),
        )
        extents.append(regions[new][2].tolist())
        moved = {tuple(new if r in (a, b) else r for r in pair) for pair in touching}
        touching = {(min(p), max(p)) for p in moved if p[0] != p[1]}
    return extents


@pytest.mark.parametrize("with_colour", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_groups_are_those_of_a_slow_reference(seed, with_colour):
    image, _, segments = describe(seed)
    pixels = image.shape[0] * image.shape[1]
    regions = group_segments(*segments, pixels, with_colour)
    assert len(regions) == 2 * len(segments[1]) - 1 > 5
    assert regions.tolist() == group_slowly(segments, pixels, with_colour)
    assert regions[-1].tolist() == [0, 0, image.shape[1], image.shape[0]]


def test_the_order_depends_on_the_seed_and_on_nothing_else():
    photo = make_image(5, 90, 120)
    first = search_selectively(photo, K, 0)
    np.testing.assert_array_equal(first, search_selectively(photo, K, 0))
    other = search_selectively(photo, K, 1)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(np.unique(first, axis=0), np.unique(other, axis=0))


def test_large_regions_come_early():
    photo = make_image(6, 120, 160)
    boxes = search_selectively(photo, K, 0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    half = len(boxes) // 2
    assert areas[:half].mean() > 2 * areas[half:].mean()


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (20, 200), (200, 20)])
def test_any_shape_is_searched(shape):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    boxes = search_selectively(photo, K, 0)
    assert [0, 0, shape[1], shape[0]] in boxes.tolist()


def test_a_flat_photograph_is_one_window():
    photo = np.full((50, 70, 3), 90, np.uint8)
    windows = propose(photo, ProposalSettings(method="selective-search"))
    assert windows.tolist() == [[0, 0, 70, 50]]


def test_code_just_compiled_finds_the_windows_of_code_from_the_cache(tmp_path, mini_voc):
    """Sums in another order would join other regions of these, in the first process alone."""
    code = """
import hashlib, sys
from data import read_photo
from proposals import propose
print(hashlib.sha256(b"".join(propose(read_photo(p)).tobytes() for p in sys.argv[1:])).hexdigest())
"""
    photos = [mini_voc / "JPEGImages" / f"{name}.jpg" for name in ("002330", "007612", "009324")]
    home = Path(__file__).resolve().parents[2]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(home)}
    run = [sys.executable, "-c", code, *photos]
    found = [subprocess.check_output(run, env=environment, text=True) for _ in range(2)]
    assert any(tmp_path.rglob("*.nbc"))
    assert found[0] == found[1]
