"""Detection without waiting for a GPU: everything in fixed shapes, one copy of what was found.

`postprocess` looks only at windows that promise something. On a GPU each such look would have to
wait until all before it is done, to learn how many they are. Here as many windows are moved in
every photograph and as many boxes are kept of every class, and those that are none score minus
infinity. What is found is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from bbox_regression import decode_tensor
from eval import Detections
from spp_detect.config import Config
from spp_detect.kernels.class_nms import sum_voters, suppress_classes
from spp_detect.postprocess import ScoredWindows, join_mirrored


class Candidates(NamedTuple):
    """Boxes to choose among.

    Attributes
    ----------
    boxes : float32 (M, 4)
        In pixels of the photograph.
    scores : float32 (C, M)
        Minus infinity where a box is none of a class.
    moved : float32 (C, M, 4), or None
        Where each class's regression moves them, if boxes are moved at last.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    moved: torch.Tensor | None = None


class Promising(NamedTuple):
    """The windows that are moved: always as many.

    Attributes
    ----------
    rows, classes : int64 (K,)
        Each window, and for which class it is moved.
    counts : bool (K,)
        Whether it promises anything; else it is there for the shape.
    """

    rows: torch.Tensor
    classes: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True)
class Found:
    """What was found in a photograph, on its way from the device.

    Attributes
    ----------
    values : float32 (C, K, 5)
        Boxes and their scores; minus infinity where there is none. On the CPU, and there when
        `ready` is.
    ready : torch.cuda.Event, optional
        None where there was nothing to copy.
    """

    values: torch.Tensor
    ready: torch.cuda.Event | None = None

    @classmethod
    def send(cls, values: torch.Tensor) -> Found:
        """Begin to copy values from their device."""
        if values.device.type != "cuda":
            return cls(values)
        copied = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copied.copy_(values, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return cls(copied, ready)

    def read(self) -> Detections:
        """Wait for them: best first."""
        if self.ready is not None:
            self.ready.synchronize()
        values = self.values.numpy()
        labels, rows = np.nonzero(values[:, :, 4] > -np.inf)
        boxes, scores = np.split(values[labels, rows], [4], axis=1)
        order = np.argsort(-scores[:, 0], kind="stable")
        return Detections(boxes[order], scores[order, 0], labels[order])


def find_promising(first: ScoredWindows, least: float, most: int) -> Promising:
    """Find what `ScoredWindows.find_promising` does, in its order, and others to fill up."""
    count = len(first.scores)
    scores = first.scores.T.flatten()
    places = scores.topk(min(most, len(scores))).indices.sort().values
    classes = places.div(max(count, 1), rounding_mode="floor")
    return Promising(places - classes * count, classes, scores[places] > least)


def move(scored: ScoredWindows, promising: Promising) -> torch.Tensor:
    """Move windows by the regression of a class each: float32 (K, 4), clipped.

    What leaves the photograph stays where it was.
    """
    rows, classes, _ = promising
    moved = _move_all(scored)[classes, rows]
    lost = (moved[:, 2:] <= moved[:, :2]).any(dim=1, keepdim=True)
    return torch.where(lost, scored.boxes[rows], moved)


def collect(
    first: ScoredWindows, passes: list[tuple[ScoredWindows, Promising]], *, moved: bool
) -> Candidates:
    """Collect the proposed windows and those of all passes, each of one class.

    Parameters
    ----------
    first : ScoredWindows
        The proposed windows.
    passes : list of ScoredWindows and Promising
        The moved windows, and what they were moved for.
    moved : bool
        Whether boxes are moved at last.
    """
    boxes, scores = [first.boxes], [first.scores.T]
    for scored, promising in passes:
        own = scored.scores.T
        mine = torch.arange(len(own), device=own.device)[:, None] == promising.classes
        boxes.append(scored.boxes)
        scores.append(torch.where(mine & promising.counts, own, -torch.inf))
    return Candidates(
        torch.cat(boxes), torch.cat(scores, dim=1), _move_all(first) if moved else None
    )


@torch.inference_mode()
def select(candidates: Candidates, config: Config, *, voting: bool) -> torch.Tensor:
    """Select among candidates what `select_detections` does: float32 (C, K, 5), boxes and scores.

    Parameters
    ----------
    candidates : Candidates
        Of one photograph.
    config : Config
        The constants of test time.
    voting : bool
        Whether boxes are voted on.
    """
    limits = config.score_threshold, config.nms_iou, config.max_detections
    kept = suppress_classes(candidates.boxes.double(), candidates.scores, *limits)
    placed = candidates.boxes if candidates.moved is None else candidates.moved
    boxes, scores = _take(placed, candidates.scores, kept)
    if candidates.moved is not None:
        again = suppress_classes(boxes.double(), scores, *limits)
        boxes, scores = _take(boxes, scores, again)
    if voting:
        boxes, scores = _vote(boxes, scores, placed, candidates.scores, config)
    return torch.cat([boxes, scores[:, :, None]], dim=2)


def _move_all(scored: ScoredWindows) -> torch.Tensor:
    """Move each window by each class's regression: float32 (C, N, 4), clipped."""
    targets = _find_targets(scored)
    each = scored.boxes[:, None].expand(-1, targets.shape[1], 4)
    moved = decode_tensor(each, targets, scored.size, inclusive=scored.inclusive)
    return moved.transpose(0, 1)


def _find_targets(scored: ScoredWindows) -> torch.Tensor:
    """Find the regression's targets of each window and class: float32 (N, C, 4)."""
    targets = scored.heads.regress(scored.features)[scored.inverse]
    if scored.mirrored is not None:
        targets = join_mirrored(targets, _find_targets(scored.mirrored))
    return targets


def _take(
    boxes: torch.Tensor, scores: torch.Tensor, kept: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take rows (C, K) of (M, 4) or (C, M, 4) and of (C, M): (C, K, 4), (C, K); -1 is none."""
    if not scores.shape[1]:
        return boxes.new_zeros((*kept.shape, 4)), scores.new_full(kept.shape, -torch.inf)
    each = boxes.expand(len(scores), *boxes.shape[-2:])
    rows = kept.clamp(min=0)
    own = scores.gather(1, rows).masked_fill(kept < 0, -torch.inf)
    return each.gather(1, rows[:, :, None].expand(-1, -1, 4)), own


def _vote(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    voters: torch.Tensor,
    their_scores: torch.Tensor,
    config: Config,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Let voters move boxes, float32 (C, K, 4), and raise their scores (C, K)."""
    assert config.vote_iou is not None
    weights = (their_scores - config.vote_score).clamp(min=0)
    support, _ = sum_voters(boxes, voters, weights, config.support_iou)
    scores = scores + (config.support * torch.log1p(support)).float()
    totals, corners = sum_voters(boxes, voters, weights, config.vote_iou)
    voted = (corners / totals[:, :, None]).float()
    return torch.where(totals[:, :, None] > 0, voted, boxes), scores
