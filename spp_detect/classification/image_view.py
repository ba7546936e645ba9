"""What of a photograph a network sees when it names the whole (paper, section 3.2)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from spp_detect.config import ConfigError
from spp_detect.spp import MIN_SIDE, pad_small, resized_size

VIEWS = ("full", "crop", "warp")
LONGEST = 6000  # pixels of a resized strip: bounds the memory


def view_photo(photo: NDArray[np.uint8], view: str, size: int) -> NDArray[np.uint8]:
    """Resize a photograph, or a part of it, to what a trunk is given.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB.
    view : str
        "full": all of it, the short side resized to ``size``; "crop": the square in its middle;
        "warp": all of it, pressed into a square.
    size : int
        In pixels, at least 48.

    Returns
    -------
    uint8 (h, w, 3)
        A square of ``size`` but for "full", whose short side is less where the long one would be
        more than 6000 pixels.

    Raises
    ------
    ConfigError
        For another view or size.

    Examples
    --------
    >>> photo = np.zeros((375, 500, 3), np.uint8)
    >>> [view_photo(photo, view, 224).shape for view in VIEWS]
    [(224, 299, 3), (224, 224, 3), (224, 224, 3)]
    """
    check_view(view, size)
    if view == "crop":
        photo = _cut_square(photo)
    height, width = photo.shape[:2]
    wanted = resized_size((width, height), size, LONGEST) if view == "full" else (size, size)
    resized = cv2.resize(photo, wanted, interpolation=cv2.INTER_LINEAR)
    return pad_small(np.asarray(resized, np.uint8))


def check_view(view: str, size: int) -> None:
    """Raise ConfigError unless there is such a view and trunks have a map of such a size."""
    if view not in VIEWS:
        raise ConfigError(f"view {view!r}: expected one of {', '.join(VIEWS)}")
    if not MIN_SIDE <= size <= LONGEST:
        raise ConfigError(f"size {size}: expected {MIN_SIDE} to {LONGEST} pixels")


def _cut_square(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photo[top : top + side, left : left + side]
