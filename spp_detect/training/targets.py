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


def match_windows(
    photograph: Photograph, windows: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Match windows with the photograph's boxes that are not difficult.

    Parameters
    ----------
    photograph : Photograph
        Of at least one such box.
    windows : float32 (N, 4)
        In its pixels.

    Returns
    -------
    float32 (N,)
        The best overlap of each window.
    int64 (N,)
        With which box.
    """
    boxes = torch.from_numpy(photograph.labels.easy.boxes)
    best, which = box_iou(torch.from_numpy(windows), boxes).max(dim=1)
    return best.numpy(), which.numpy()


def select_regression_pairs(
    photograph: Photograph,
    windows: NDArray[np.float32],
    c: int,
    iou: float,
    *,
    strict: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pair windows with the boxes of class c that they should become.

    A window belongs to the class of the box that it overlaps best, if by at least `iou`, or by more
    where `strict`; difficult boxes do not count at all.

    Returns
    -------
    int64 (n,)
        Rows of `windows`.
    float32 (n, 4)
        Their boxes.
    """
    easy = photograph.labels.easy
    if not (easy.classes == c).any():
        return np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    best, which = match_windows(photograph, windows)
    enough = best > iou if strict else best >= iou
    rows = np.flatnonzero(enough & (easy.classes[which] == c))
    return rows, easy.boxes[which[rows]]
