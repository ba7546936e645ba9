"""From scored windows to detections: threshold, NMS, box regression, NMS (section 4.1).

After the paper: a vote on each box among the moved windows around it, as in MR-CNN (Gidaris,
Komodakis, arXiv 1505.01749).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torchvision.ops import box_iou, nms

from bbox_regression import decode
from eval import Detections
from spp_detect.config import Config
from spp_detect.features import multiply_rows
from spp_detect.heads import Heads

PREFIX = 4  # times the detections wanted: windows that NMS sees first


@dataclass(frozen=True)
class ScoredWindows:
    """One model's scores of a photograph's windows, and what moves their boxes.

    Attributes
    ----------
    boxes : float32 (N, 4).
    scores : float32 (N, C).
    features : float (U, D), pooled, of the distinct windows.
    inverse : int64 (N,), the row of `features` of each window.
    size : (width, height) of the photograph.
    heads : the model's.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    features: torch.Tensor
    inverse: torch.Tensor
    size: tuple[int, int]
    heads: Heads

    @cached_property
    def targets(self) -> torch.Tensor:
        """What the regressions predict for the distinct windows: float32 (U, C, 4)."""
        coef = self.heads.regression_coef.transpose(0, 1).flatten(1)
        intercept = self.heads.regression_intercept
        return multiply_rows(self.features, coef).unflatten(1, intercept.shape) + intercept

    def move(self, c: int, rows: torch.Tensor) -> torch.Tensor:
        """Move some of the windows by the regression of class c: float32 (n, 4), clipped."""
        targets = self.targets[self.inverse[rows], c]
        moved = decode(self.boxes[rows].cpu().numpy(), targets.cpu().numpy(), self.size)
        return torch.from_numpy(moved).to(self.boxes.device)


@torch.inference_mode()
def select_detections(
    scored: Sequence[ScoredWindows], config: Config, *, regress: bool = True, vote: bool = True
) -> Detections:
    """Select among the windows of one model, or among those of several together (section 4.4).

    Parameters
    ----------
    scored : each model's scores of a photograph's windows.
    config : the constants of test time.
    regress : whether each box is moved by its model's regression; NMS comes again after it.
    vote : whether the moved windows around a box then vote on it, where `config.vote_iou` is given.

    Returns
    -------
    Detections, best first.
    """
    boxes = torch.cat([one.boxes for one in scored])
    scores = torch.cat([one.scores for one in scored])
    found = []
    for c in range(scores.shape[1]):
        kept = _suppress(boxes, scores[:, c], config)
        if regress:
            moved = _move(scored, c, kept)
            again = _suppress(moved, scores[kept, c], config)
            chosen = moved[again]
            if vote and config.vote_iou is not None:
                chosen = _vote(scored, c, chosen, config.vote_score, config.vote_iou)
            found.append((chosen, scores[kept[again], c]))
        else:
            found.append((boxes[kept], scores[kept, c]))
    return _join(found)


def _suppress(boxes: torch.Tensor, scores: torch.Tensor, config: Config) -> torch.Tensor:
    """Threshold, NMS, the best of one class: rows, best first."""
    rows = torch.nonzero(scores > config.score_threshold)[:, 0]
    rows = rows[scores[rows].argsort(descending=True, stable=True)]
    # Whether a box is kept depends on better ones only, so the best ones may be enough.
    for count in (PREFIX * config.max_detections, len(rows)):
        best = rows[:count]
        kept = best[nms(boxes[best], scores[best], config.nms_iou)]
        if len(kept) >= config.max_detections or count >= len(rows):
            break
    return kept[: config.max_detections]


def _move(scored: Sequence[ScoredWindows], c: int, rows: torch.Tensor) -> torch.Tensor:
    """Move windows, by their rows in all models' windows one after the other."""
    moved = torch.empty((len(rows), 4), device=rows.device)
    start = 0
    for one in scored:
        own = torch.nonzero((rows >= start) & (rows < start + len(one.boxes)))[:, 0]
        moved[own] = one.move(c, rows[own] - start)
        start += len(one.boxes)
    return moved


def _vote(
    scored: Sequence[ScoredWindows], c: int, boxes: torch.Tensor, least: float, iou: float
) -> torch.Tensor:
    """Average for each box the moved windows that overlap it by `iou` and score above `least`.

    A window counts by how far it scores above; a box that none of them overlaps stays.
    """
    scores = torch.cat([one.scores[:, c] for one in scored])
    voters = torch.nonzero(scores > least)[:, 0]
    moved = _move(scored, c, voters)
    weights = (box_iou(boxes, moved) >= iou) * (scores[voters] - least)
    total = weights.sum(1, keepdim=True)
    return torch.where(total > 0, weights @ moved / total, boxes)


def _join(found: list[tuple[torch.Tensor, torch.Tensor]]) -> Detections:
    labels = [torch.full((len(scores),), c) for c, (_, scores) in enumerate(found)]
    boxes = torch.cat([boxes for boxes, _ in found]).cpu().numpy().astype(np.float32)
    scores = torch.cat([scores for _, scores in found]).cpu().numpy().astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], torch.cat(labels).numpy()[order])
