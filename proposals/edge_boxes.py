"""EdgeBoxes (Zitnick and Dollar, ECCV 2014) as OpenCV's contrib modules implement it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from proposals.opencv import pad_photo
from proposals.settings import ProposalError, hash_file

_ALPHA, _BETA, _MAX_BOXES, _MIN_AREA = 0.65, 0.75, 10_000, 1000

# Gradients: Gaussian sigma in pixels, and the percentile of the magnitude that counts as 1. A
# smaller sigma leaves more edges to join, which takes longer and finds no more.
_SIGMA, _FULL = 3.0, 99.0

# The structured-edge forest reads patches of 32 pixels and does not check that one fits.
_MIN_SIDE = 32

_OPTIONS = (
    "stride",
    "shrinkNumber",
    "patchSize",
    "patchInnerSize",
    "numberOfGradientOrientations",
    "selfsimilarityGridSize",
    "numberOfTrees",
    "numberOfTreesToEvaluate",
)
_TREES = ("childs", "featureIds", "thresholds", "edgeBoundaries", "edgeBins")


def search_edge_boxes(
    photo: NDArray[np.uint8], edge_model: Path | None = None
) -> NDArray[np.float64]:
    """Return the windows of EdgeBoxes, best score first.

    With a structured-edge model the edges are those of the EdgeBoxes paper. Without one they are
    smoothed Sobel magnitudes of the strongest colour channel, thinned across their direction and
    divided by their 99th percentile, which is cruder but needs no download.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB, at the size to work at.
    edge_model : Path or None
        File for ``cv2.ximgproc.createStructuredEdgeDetection``.

    Returns
    -------
    float64 (N, 4)
        Half-open boxes in pixels of ``photo``; none where there are no edges. They may reach into
        the padding of a photograph under 32 pixels.

    Raises
    ------
    ProposalError
        If the edge model cannot be read or is no such model.
    """
    padded = pad_photo(photo, _MIN_SIDE, _MIN_SIDE)
    if edge_model is None:
        edges, directions = _find_gradient_edges(padded)
    else:
        edges, directions = _find_structured_edges(padded, edge_model)
    search = cv2.ximgproc.createEdgeBoxes()
    search.setAlpha(_ALPHA)
    search.setBeta(_BETA)
    search.setMaxBoxes(_MAX_BOXES)
    search.setMinBoxArea(_MIN_AREA)
    found, scores = search.getBoundingBoxes(edges, directions)
    boxes = np.array(found, np.float64).reshape(-1, 4)
    # OpenCV kept the 1-based corner of the MATLAB original, and a width that counts one less
    # than the pixels it covers: 40 pixels are reported as x = 1, width = 39.
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, :2] -= 1
    return boxes[np.argsort(-np.ravel(scores), kind="stable")] if len(boxes) else boxes


def _find_gradient_edges(
    photo: NDArray[np.uint8],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return edge strengths in [0, 1] and the directions across them in [0, pi), both (H, W)."""
    smooth = cv2.GaussianBlur(
        photo.astype(np.float32), (0, 0), _SIGMA, borderType=cv2.BORDER_REFLECT
    )
    dx = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, ksize=3)
    dy = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, ksize=3)
    strongest = np.argmax(dx * dx + dy * dy, axis=2)[..., None]
    dx = np.take_along_axis(dx, strongest, axis=2)[..., 0]
    dy = np.take_along_axis(dy, strongest, axis=2)[..., 0]
    strength = np.hypot(dx, dy)
    # The floor of one grey level keeps rounding noise of a flat photograph from becoming edges.
    strength = np.minimum(strength / max(1.0, float(np.percentile(strength, _FULL))), 1.0)
    directions = np.mod(np.arctan2(dy, dx), np.pi).astype(np.float32)
    return _thin(strength.astype(np.float32), directions), directions


def _thin(edges: NDArray[np.float32], directions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Keep edges that are the strongest along their direction.

    EdgeBoxes groups neighbouring edge pixels; on thick edges it takes minutes a photograph.
    """
    rows, columns = np.indices(edges.shape, dtype=np.float32)
    step_x, step_y = np.cos(directions), np.sin(directions)
    strongest = np.ones(edges.shape, bool)
    for sign in (1, -1):
        beside = cv2.remap(
            edges,
            columns + sign * step_x,
            rows + sign * step_y,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        strongest &= edges * 1.01 >= beside
    return np.where(strongest, edges, np.float32(0))


def _find_structured_edges(
    photo: NDArray[np.uint8], edge_model: Path
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    detector = _load_edge_model(edge_model, hash_file(edge_model))
    edges = detector.detectEdges(photo.astype(np.float32) / 255)
    directions = detector.computeOrientation(edges)
    return detector.edgesNms(edges, directions), directions


@lru_cache(maxsize=2)
def _load_edge_model(path: Path, content: str) -> Any:
    """Load a structured-edge model, once per process and content."""
    try:
        storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_READ)
        _check_edge_model(storage, path)
        return cv2.ximgproc.createStructuredEdgeDetection(str(path))
    except (cv2.error, SystemError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ProposalError(f"{path}: not a structured-edge model ({reason})") from error


def _check_edge_model(storage: Any, path: Path) -> None:
    """Raise ProposalError for what OpenCV itself would divide by zero or read past the end at."""
    if not storage.isOpened():
        raise ProposalError(f"{path}: not a structured-edge model (not YAML, XML or JSON)")
    options = storage.getNode("options")
    bad = [name for name in _OPTIONS if options.empty() or not options.getNode(name).real() >= 1]
    bad += [name for name in _TREES if storage.getNode(name).size() == 0]
    if bad:
        raise ProposalError(f"{path}: not a structured-edge model (no {', '.join(bad)})")
