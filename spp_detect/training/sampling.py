"""Which windows a batch of fine-tuning holds (paper, section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from data import Photograph


@dataclass(frozen=True)
class LabelledWindows:
    """A photograph's windows that may be drawn.

    Attributes
    ----------
    positives : float32 (P, 4) and labels, int64 (P,): windows of a class; true boxes are among
        them.
    negatives : float32 (M, 4): background near objects.
    """

    positives: NDArray[np.float32]
    labels: NDArray[np.int64]
    negatives: NDArray[np.float32]


def label_windows(
    photograph: Photograph,
    proposed: NDArray[np.float32],
    iou: float,
    background: tuple[float, ...],
) -> LabelledWindows:
    """Label a photograph's windows by the box that each overlaps best.

    Parameters
    ----------
    photograph : its boxes that are not difficult count, and are windows themselves.
    proposed : float32 (N, 4).
    iou : least overlap of a positive.
    background : (from, to): a negative's best overlap, the end excluded.
    """
    easy = photograph.labels.easy
    windows = np.concatenate([easy.boxes, proposed])
    if len(easy) == 0:
        none = np.zeros((0, 4), np.float32)
        return LabelledWindows(none, np.zeros(0, np.int64), none)
    best, which = box_iou(torch.from_numpy(windows), torch.from_numpy(easy.boxes)).max(dim=1)
    overlap = best.numpy()
    positive = overlap >= iou
    negative = (overlap >= background[0]) & (overlap < background[1])
    labels = easy.classes[which.numpy()[positive]]
    return LabelledWindows(windows[positive], labels, windows[negative])


def draw_windows(
    labelled: LabelledWindows,
    positives: int,
    negatives: int,
    background: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Draw windows and their labels; `background` is the negatives' label.

    Where a kind is rarer than asked for, windows repeat; where it is missing, none is drawn.
    """
    rows = _draw(len(labelled.positives), positives, random)
    others = _draw(len(labelled.negatives), negatives, random)
    windows = np.concatenate([labelled.positives[rows], labelled.negatives[others]])
    labels = np.concatenate([labelled.labels[rows], np.full(len(others), background, np.int64)])
    return windows, labels


def _draw(available: int, wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    if available == 0:
        return np.zeros(0, np.int64)
    return random.choice(available, wanted, replace=available < wanted)
