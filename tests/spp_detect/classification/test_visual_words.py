"""Visual words and their pyramid, beside slow loops and the pyramid match as it was published."""

from itertools import product

import numpy as np
import pytest
from PIL import Image

from spp_detect.classification import visual_words
from spp_detect.classification.visual_words import (
    BAG,
    PYRAMID,
    compute_sift,
    count_words,
    describe_by_words,
    intersect,
    learn_words,
    make_view,
    name_words,
)
from spp_detect.config import ConfigError


@pytest.fixture(scope="module")
def photo():
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC))


def test_patches_lie_on_a_grid_inside_the_photograph(photo):
    descriptors, places = compute_sift(photo)
    pixels = places * (128, 96)
    assert descriptors.shape == (15 * 11, 128)
    assert pixels.min() == 8 and pixels.max(axis=0).tolist() == [120, 88]
    assert np.unique(np.diff(np.unique(pixels[:, 0]))).tolist() == [8]


def test_patches_see_sixteen_pixels_and_their_surroundings_alone(photo):
    """Bins of 4 pixels, the outer ones fading over half a bin; blurring reaches a little on."""
    descriptors, places = compute_sift(photo)
    middle = int(np.flatnonzero((places * (128, 96) == (64, 48)).all(axis=1))[0])
    for reach, same in ((18, True), (6, False)):
        alone = np.full_like(photo, 128)
        part = slice(48 - reach, 48 + reach), slice(64 - reach, 64 + reach)
        alone[part] = photo[part]
        off = abs(compute_sift(alone)[0][middle] - descriptors[middle]).max()
        assert (off < 3) == same, (reach, off)


def test_a_photograph_moved_by_a_step_has_the_same_patches_one_further(photo):
    here = compute_sift(photo)[0].reshape(11, 15, 128)
    moved = compute_sift(np.roll(photo, 8, axis=1))[0].reshape(11, 15, 128)
    np.testing.assert_allclose(moved[2:-2, 3:-2], here[2:-2, 2:-3], atol=1)


def test_patches_stay_upright(photo):
    """A mirror image has the same patches, bins and directions mirrored; turned ones had not."""
    odd = np.pad(photo, ((0, 0), (0, 1), (0, 0)), mode="edge")  # a pixel is in the middle
    here, mirrored = (
        compute_sift(np.ascontiguousarray(one))[0].reshape(11, 15, 4, 4, 8)
        for one in (odd, odd[:, ::-1])
    )
    # From right to left; a direction of k eighths of a turn is one of 4 - k.
    expected = mirrored[:, ::-1, :, ::-1][..., (4 - np.arange(8)) % 8]
    np.testing.assert_allclose(here, expected, atol=1)


def test_the_nearest_word():
    random = np.random.default_rng(1)
    descriptors, words = random.normal(size=(40, 128)), random.normal(size=(7, 128))
    expected = [np.argmin(((words - one) ** 2).sum(axis=1)) for one in descriptors]
    assert name_words(descriptors, words).tolist() == expected


def test_counts_are_a_slow_loops():
    random = np.random.default_rng(2)
    named, places = random.integers(0, 5, 80), random.random((80, 2))
    expected = []
    for side, weight in PYRAMID.items():
        for row, column, word in product(range(side), range(side), range(5)):
            inside = [
                row <= y * side < row + 1 and column <= x * side < column + 1 for x, y in places
            ]
            expected.append(weight * np.sum(inside & (named == word)) / 80)
    counted = count_words(named, places, 5, PYRAMID)
    np.testing.assert_allclose(counted, expected, atol=1e-7)
    assert counted.sum() == pytest.approx(1)
    np.testing.assert_allclose(count_words(named, places, 5, BAG), np.bincount(named) / 80)


def test_intersections_are_a_slow_loops():
    random = np.random.default_rng(3)
    one, other = random.random((4, 9), np.float32), random.random((3, 9), np.float32)
    slow = [[sum(min(p, q) for p, q in zip(a, b, strict=True)) for b in other] for a in one]
    np.testing.assert_allclose(intersect(one, other), slow, rtol=1e-5)


def test_the_kernel_is_the_pyramid_match():
    """Lazebnik's equation 2: new matches of a level count half of those of the next finer one."""
    random = np.random.default_rng(4)
    pair = [(random.integers(0, 6, 50), random.random((50, 2))) for _ in range(2)]
    ours = intersect(*(count_words(*one, 6, PYRAMID)[None] for one in pair))[0, 0]
    matches = []
    for side in (1, 2, 4):
        a, b = (count_words(*one, 6, {side: 1.0}) for one in pair)
        matches.append(np.minimum(a, b).sum())
    coarse, middle, fine = matches
    assert ours == pytest.approx(fine + (middle - fine) / 2 + (coarse - middle) / 4, rel=1e-5)


def test_descriptions_of_a_photograph(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    view = make_view("full", 96)
    words = learn_words([tmp_path / "photo.png"], view, 4, seed=0)
    assert words.shape == (4, 128)
    again = learn_words([tmp_path / "photo.png"], view, 4, seed=0)
    np.testing.assert_array_equal(words, again)
    bag = describe_by_words(words, view, pyramid=False)
    vector = bag.describe(photo)
    assert vector.shape == (4,) and np.linalg.norm(vector) == pytest.approx(1)
    pyramid = describe_by_words(words, view, pyramid=True)
    rows = np.stack([pyramid.describe(photo), pyramid.describe(photo[::-1].copy())])
    assert rows.shape == (2, 21 * 4)
    kernel = pyramid.compare(rows, rows)
    assert kernel[0, 0] == pytest.approx(1) and kernel[0, 1] < 1


def test_more_words_than_patches(photo, tmp_path, monkeypatch):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    monkeypatch.setattr(visual_words, "DESCRIPTORS", 30)
    with pytest.raises(ConfigError, match="words 31: expected at most the 30 patches"):
        learn_words([tmp_path / "photo.png"], make_view("full", 96), 31, seed=0)
