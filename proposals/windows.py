"""Windows of one photograph, by any method."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from proposals.alpacadb import search_alpacadb
from proposals.edge_boxes import search_edge_boxes
from proposals.opencv import check_opencv, search_opencv
from proposals.selective_search import SEGMENTS, search_selectively
from proposals.settings import ProposalError, ProposalSettings

# The long side in pixels that every method works at; R-CNN resized to a width of 500 for
# selective search, and VOC's photographs have a long side of at most 500.
_LONG_SIDE = 500


def propose(
    photo: NDArray[np.uint8], settings: ProposalSettings | None = None
) -> NDArray[np.float32]:
    """Propose windows for a photograph.

    A photograph whose long side exceeds 500 pixels is searched at 500 and its boxes are scaled
    back; VOC's photographs are searched as they are.

    EdgeBoxes' windows come in the order of their scores, those of our own selective search by
    their places in the hierarchies, see `search_selectively`. The other implementations do not
    give away the hierarchy: their windows come in the order of a uniform random number, seeded,
    times the square root of the window's rank by area, smallest product first. The same
    photograph and settings give the same windows, in any thread.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB, at least 1 by 1.
    settings : ProposalSettings, optional
        Its defaults if not given.

    Returns
    -------
    float32 (N, 4)
        Boxes x1 y1 x2 y2, 0-based, half-open, in pixels of ``photo``; best first, unique, inside
        the photograph, at least one and at most ``settings.max_windows``. Where a photograph is
        narrower or lower than ``settings.min_side``, windows as wide or as high as it are kept;
        where nothing is found, the one window is the whole photograph.

    Raises
    ------
    ProposalError
        If ``photo`` is no such array, OpenCV lacks ``ximgproc`` or the edge model is damaged.

    Examples
    --------
    >>> photo = np.zeros((40, 60, 3), np.uint8)
    >>> photo[10:30, 20:50] = 255
    >>> windows = propose(photo)
    >>> [20.0, 10.0, 50.0, 30.0] in windows.tolist()
    True
    """
    settings = ProposalSettings() if settings is None else settings
    _check_photo(photo)
    working = _shrink(photo)
    try:
        found = _search(working, settings)
    except cv2.error as error:
        raise ProposalError(f"OpenCV failed on a photograph of {photo.shape}: {error}") from error
    boxes = _place(found, working, photo, settings.min_side)
    if settings.method.startswith(("opencv", "alpacadb")):
        boxes = _shuffle(boxes, settings.seed)
    if not len(boxes):
        boxes = np.array([[0, 0, photo.shape[1], photo.shape[0]]], np.float32)
    return boxes[: settings.max_windows]


def _check_photo(photo: object) -> None:
    if not isinstance(photo, np.ndarray):
        raise ProposalError(f"photograph is {type(photo).__name__}, expected uint8 (H, W, 3)")
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or 0 in photo.shape:
        raise ProposalError(
            f"photograph is {photo.dtype} {photo.shape}, expected uint8 (H, W, 3), not empty"
        )


def _shrink(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    ratio = _LONG_SIDE / max(height, width)
    if ratio >= 1:
        return np.ascontiguousarray(photo)
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return np.asarray(
        cv2.resize(np.ascontiguousarray(photo), size, interpolation=cv2.INTER_AREA), np.uint8
    )


def _search(photo: NDArray[np.uint8], settings: ProposalSettings) -> NDArray[np.float64]:
    if settings.method in SEGMENTS:
        return search_selectively(photo, SEGMENTS[settings.method], settings.seed)
    if settings.method == "alpacadb":
        return search_alpacadb(photo)
    check_opencv()
    if settings.method == "edgeboxes":
        return search_edge_boxes(photo, settings.edge_model)
    return search_opencv(photo, settings.method.removeprefix("opencv-"))


def _place(
    found: NDArray[np.float64],
    working: NDArray[np.uint8],
    photo: NDArray[np.uint8],
    min_side: float,
) -> NDArray[np.float32]:
    """Clip to the working photograph, scale to the original, drop small boxes and duplicates."""
    size = np.array([working.shape[1], working.shape[0]] * 2, np.float64)
    original = np.array([photo.shape[1], photo.shape[0]] * 2, np.float64)
    boxes = (np.clip(found, 0, size) * (original / size)).astype(np.float32)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = (sides >= np.minimum(min_side, original[:2])).all(axis=1) & (sides > 0).all(axis=1)
    boxes = boxes[large]
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]


def _shuffle(boxes: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    sides = boxes[:, 2:] - boxes[:, :2]
    by_area = boxes[np.argsort(-sides[:, 0] * sides[:, 1], kind="stable")]
    ranks = np.arange(1, len(by_area) + 1)
    draws = np.random.default_rng(seed).random(len(by_area))
    return by_area[np.argsort(draws * np.sqrt(ranks), kind="stable")]
