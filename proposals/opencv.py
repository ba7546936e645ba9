"""Selective search as OpenCV's contrib modules implement it."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from proposals.settings import ProposalError

# OpenCV's texture measure turns the photograph by 45 degrees and cuts the original size out of
# it; builds without the mend of opencv_contrib #2101 fail where that does not fit, above a ratio
# of 1 + sqrt(2). At 2 it fits with room for rounding, at every size.
_MAX_RATIO = 2
_MIN_SIDE = 16

_SIGMA = 0.8
# k and least pixels of the segments that the dense mode starts from.
_DENSE_SEGMENTS = ((100.0, 50), (200.0, 100), (400.0, 100))

_BUILDS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


def check_opencv() -> None:
    """Check that OpenCV has its contrib module ``ximgproc``.

    All OpenCV builds on PyPI install the same folder ``cv2``, so a second build overwrites the
    first one's files and ``ximgproc`` may be lost.

    Raises
    ------
    ProposalError
        One line with the builds that are installed and the command that mends it.

    Examples
    --------
    >>> check_opencv()
    """
    module = getattr(cv2, "ximgproc", None)
    if hasattr(module, "createEdgeBoxes") and hasattr(module, "segmentation"):
        return
    found = _installed_builds()
    names = ", ".join(f"{name} {version}" for name, version in found.items()) or "no build by pip"
    remove = f"pip uninstall -y {' '.join(found)} && " if found else ""
    raise ProposalError(
        f"cv2.ximgproc is missing; installed: {names}; "
        f"mend it with: {remove}pip install --force-reinstall opencv-contrib-python-headless"
    )


def search_opencv(photo: NDArray[np.uint8], mode: str) -> NDArray[np.float64]:
    """Return the windows of OpenCV's selective search, as a set in lexicographic order.

    OpenCV ranks its windows by C's ``rand()``, which is not seeded and which all threads share,
    so its order differs from run to run; the set of windows does not. Elongated photographs are
    padded with their border pixels, see ``_MAX_RATIO``.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB, at the size to work at.
    mode : str
        ``fast`` and ``quality`` are OpenCV's own; ``dense`` is the selection of `_make_dense`.

    Returns
    -------
    float64 (N, 4)
        Half-open boxes in pixels of ``photo``; they may reach into the padding.
    """
    height, width = photo.shape[:2]
    padded = pad_photo(
        photo,
        max(_MIN_SIDE, -(-width // _MAX_RATIO)),
        max(_MIN_SIDE, -(-height // _MAX_RATIO)),
    )
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
    if mode == "fast":
        search.switchToSelectiveSearchFast()
    elif mode == "quality":
        search.switchToSelectiveSearchQuality()
    else:
        _make_dense(search, cv2.cvtColor(padded, cv2.COLOR_RGB2BGR))
    found = np.asarray(search.process(), np.float64).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return np.unique(found, axis=0)


def _make_dense(search: Any, photo: NDArray[np.uint8]) -> None:
    """Give a search the release's colour spaces and sums, over finer and coarser segments.

    HSV and Lab; colour + texture + size + fill and texture + size + fill, as the release's fast
    mode; segments finer and coarser than OpenCV's fast mode has, so that fewer objects are lost.
    """
    parts = cv2.ximgproc.segmentation
    for k, least in _DENSE_SEGMENTS:
        search.addGraphSegmentation(parts.createGraphSegmentation(_SIGMA, k, least))
    for space in (cv2.COLOR_BGR2HSV, cv2.COLOR_BGR2Lab):
        search.addImage(cv2.cvtColor(photo, space))
    for with_colour in (True, False):
        similarity = parts.createSelectiveSearchSegmentationStrategyMultiple()
        if with_colour:
            colour = parts.createSelectiveSearchSegmentationStrategyColor()
            similarity.addStrategy(colour, 1.0)
        for make in ("Fill", "Texture", "Size"):
            one = getattr(parts, f"createSelectiveSearchSegmentationStrategy{make}")()
            similarity.addStrategy(one, 1.0)
        search.addStrategy(similarity)


def pad_photo(photo: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Repeat the last row and column until a photograph has at least this height and width."""
    down = max(0, height - photo.shape[0])
    right = max(0, width - photo.shape[1])
    return np.pad(photo, ((0, down), (0, right), (0, 0)), mode="edge")


def _installed_builds() -> dict[str, str]:
    found = {}
    for name in _BUILDS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
