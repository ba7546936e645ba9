"""Views of photographs, by their sizes and by what they show."""

import numpy as np
import pytest

from spp_detect.classification.image_view import VIEWS, view_photo
from spp_detect.cli import transferring
from spp_detect.config import ConfigError


def ramp(height, width):
    """A photograph that tells of each pixel where it lies."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x], 2).astype(np.uint8)


def test_full_keeps_the_shape_and_all_of_the_photograph():
    view = view_photo(ramp(300, 450), "full", 100)
    assert view.shape == (100, 150, 3)
    assert view[0, 0, :2].max() <= 2 and view[-1, -1, :2].min() >= 253


def test_warp_shows_all_in_a_square():
    view = view_photo(ramp(300, 450), "warp", 100)
    assert view.shape == (100, 100, 3)
    assert view[0, 0, :2].max() <= 2 and view[-1, -1, :2].min() >= 253


@pytest.mark.parametrize("size", [(300, 450), (450, 300)])
def test_crop_shows_the_middle(size):
    view = view_photo(ramp(*size), "crop", 100).astype(int)
    assert view.shape == (100, 100, 3)
    long = 0 if size[1] > size[0] else 1
    # A sixth of the long side is cut away at either end, nothing of the short one.
    ends = view[0, 0], view[-1, -1]
    assert abs(ends[0][long] - 255 / 6) < 3 and abs(ends[1][long] - 255 * 5 / 6) < 3
    assert ends[0][1 - long] <= 2 and ends[1][1 - long] >= 253


def test_a_strip_stays_small_and_has_a_cell():
    assert view_photo(np.zeros((3, 9000, 3), np.uint8), "full", 224).shape == (48, 6000, 3)
    for view in ("crop", "warp"):
        assert view_photo(np.zeros((1, 9000, 3), np.uint8), view, 64).shape == (64, 64, 3)


@pytest.mark.parametrize(("view", "size"), [("whole", 224), ("full", 47), ("crop", 6001)])
def test_refusals(view, size):
    with pytest.raises(ConfigError, match="expected"):
        view_photo(np.zeros((60, 60, 3), np.uint8), view, size)


def test_the_command_line_knows_all():
    assert transferring.VIEWS == VIEWS
