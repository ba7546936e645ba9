"""Which windows are examples of what: negatives of a class, windows to regress (section 4.1)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou, nms

from data import Photograph


def find_negatives(
    photograph: Photograph,
    windows: NDArray[np.float32],
    classes: int,
    iou: float,
    overlap: float | None,
) -> NDArray[np.bool_]:
    """Say of which classes a window is a negative: bool (N, C).

    It is one of class c where it overlaps every box of c, difficult ones too, by less than `iou`.
    With `overlap`, a negative that overlaps a better proposed one by more is left out, as in the
    paper.
    """
    labels = photograph.labels
    negative = np.ones((len(windows), classes), bool)
    if len(labels.boxes):
        table = box_iou(torch.from_numpy(windows), torch.from_numpy(labels.boxes)).numpy()
        for c in np.unique(labels.classes):
            negative[:, c] = table[:, labels.classes == c].max(axis=1) < iou
    if overlap is not None:
        kinds, kind = np.unique(negative, axis=1, return_inverse=True)
        thinned = [_thin(windows, kinds[:, k], overlap) for k in range(kinds.shape[1])]
        negative = np.stack(thinned, axis=1)[:, kind.reshape(-1)]
    return negative


def _thin(
    windows: NDArray[np.float32], chosen: NDArray[np.bool_], overlap: float
) -> NDArray[np.bool_]:
    rows = np.flatnonzero(chosen)
    order = torch.arange(len(rows), 0, -1).float()
    kept = nms(torch.from_numpy(windows[rows]), order, overlap).numpy()
    thinned = np.zeros(len(windows), bool)
    thinned[rows[kept]] = True
    return thinned


def mirror_windows(windows: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Mirror windows, float32 (N, 4), with a photograph `width` pixels wide."""
    left, top, right, bottom = windows.T
    return np.stack([width - right, top, width - left, bottom], axis=1)


def select_regression_pairs(
    photograph: Photograph, proposed: NDArray[np.float32], c: int, iou: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Pair windows with the boxes they should become.

    A window belongs to the class of the box that it overlaps best, if by at least `iou`; the boxes
    themselves count as windows, difficult ones do not count at all.

    Returns
    -------
    windows and boxes of class c, both float32 (n, 4).
    """
    boxes, labels = photograph.labels.easy.boxes, photograph.labels.easy.classes
    if not (labels == c).any():
        return np.zeros((0, 4), np.float32), np.zeros((0, 4), np.float32)
    windows = np.concatenate([boxes, proposed])
    best, which = box_iou(torch.from_numpy(windows), torch.from_numpy(boxes)).max(dim=1)
    chosen = (best.numpy() >= iou) & (labels[which.numpy()] == c)
    return windows[chosen], boxes[which.numpy()[chosen]]
