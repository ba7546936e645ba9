"""From scored windows to detections: threshold, NMS, box regression, NMS (section 4.1).

After the paper: windows that are moved and scored again, and a vote on each box among those around
it, both as in MR-CNN (Gidaris, Komodakis, arXiv 1505.01749); the votes raise its score, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from bbox_regression import decode
from eval import Detections
from spp_detect.calibration import Calibration
from spp_detect.config import Config
from spp_detect.heads import Heads
from spp_detect.kernels.nms import sum_votes, suppress, vote_on_boxes
from spp_detect.kernels.product import multiply_pairs

NO_ROWS = np.empty(0, np.int64)


@dataclass(frozen=True)
class ScoredWindows:
    """One model's scores of a photograph's windows, and what moves their boxes.

    Attributes
    ----------
    boxes : float32 (N, 4)
        The windows, in pixels of the photograph.
    scores : float32 (N, C)
        Of each class's SVM.
    features : float (U, D)
        Pooled, of the distinct windows.
    inverse : int64 (N,)
        The row of `features` of each window.
    size : (width, height)
        Of the photograph.
    heads : Heads
        The model's.
    inclusive : bool
        Whether its regression measures boxes as `bbox_regression.decode` does with `inclusive`.
    share : float
        What a vote of its windows counts: of several models together each has a part.
    mirrored : ScoredWindows, optional
        The same N windows in the photograph's mirror image, where that is looked at, too: it has a
        say in where they are moved, as it had in the scores.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    features: torch.Tensor
    inverse: torch.Tensor
    size: tuple[int, int]
    heads: Heads
    inclusive: bool = False
    share: float = 1.0
    mirrored: ScoredWindows | None = None

    def move(self, rows: NDArray[np.int64], classes: NDArray[np.int64]) -> NDArray[np.float32]:
        """Move windows by the regression of a class each: float32 (n, 4), clipped."""
        moved: NDArray[np.float32] = decode(
            self.boxes.cpu().numpy()[rows],
            self._find_targets(rows, classes).cpu().numpy(),
            self.size,
            inclusive=self.inclusive,
        )
        return moved

    def _find_targets(self, rows: NDArray[np.int64], classes: NDArray[np.int64]) -> torch.Tensor:
        """Find the regression's targets of windows for a class each: float32 (n, 4)."""
        inverse = self.inverse.cpu().numpy()[rows]
        targets = multiply_pairs(self.features, self.heads.regression_coef, inverse, classes)
        targets += self.heads.regression_intercept[torch.from_numpy(classes).to(targets.device)]
        if self.mirrored is not None:
            targets = join_mirrored(targets, self.mirrored._find_targets(rows, classes))
        return targets

    def with_mirrored(self, mirrored: ScoredWindows) -> ScoredWindows:
        """Average with what is said of the same windows in the photograph's mirror image."""
        return replace(self, scores=(self.scores + mirrored.scores) / 2, mirrored=mirrored)

    def find_promising(
        self, least: float, most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the windows that score above `least` for a class, the `most` best of all classes.

        Returns
        -------
        rows, classes : int64 (n,)
            Class by class; a window stands there once for each class.
        """
        scores = self.scores.T.contiguous().cpu().numpy()
        classes, rows = np.nonzero(scores > least)
        if len(rows) > most:
            best = np.sort(np.argsort(-scores[classes, rows], kind="stable")[:most])
            classes, rows = classes[best], rows[best]
        return rows, classes

    def calibrate(self, calibration: Calibration) -> ScoredWindows:
        """Bring scores to log-odds."""
        return replace(self, scores=calibration.find_log_odds(self.scores))

    def restrict(self, classes: NDArray[np.int64]) -> ScoredWindows:
        """Leave each window the score of one class, int64 (N,), and minus infinity for others."""
        own = torch.from_numpy(classes)[:, None].to(self.scores.device)
        scores = torch.full_like(self.scores, -torch.inf)
        return replace(self, scores=scores.scatter(1, own, self.scores.gather(1, own)))


def join_mirrored(targets: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Average targets of the regression, float (..., 4), with those of mirrored windows.

    What moves a mirrored window to the right moves the window itself to the left.
    """
    turned = torch.cat([-mirrored[..., :1], mirrored[..., 1:]], dim=-1)
    return (targets + turned) / 2


@torch.inference_mode()
def select_detections(
    scored: Sequence[ScoredWindows], config: Config, *, regress: bool = True, vote: bool = True
) -> Detections:
    """Select among the windows of one model, or among those of several together (section 4.4).

    Parameters
    ----------
    scored : sequence of ScoredWindows
        Each model's scores of a photograph's windows, in each pass.
    config : Config
        The constants of test time.
    regress : bool
        Whether each box is moved by its model's regression and NMS comes again after it. Only done
        where `config.passes` is 1: after more the moved windows are among those that were scored.
    vote : bool
        Whether the moved windows around a box then vote on where it lies and raise its score, where
        `config.vote_iou` is given.

    Returns
    -------
    Detections
        Best first.
    """
    # Overlaps in double, as in the release: a box that overlaps a better one by just nms_iou stays.
    boxes = np.concatenate([one.boxes.cpu().numpy() for one in scored]).astype(np.float64)
    scores = torch.cat([one.scores for one in scored]).T.contiguous().cpu().numpy()
    shares = np.concatenate([np.full(len(one.boxes), one.share, np.float32) for one in scored])
    limits = config.score_threshold, config.nms_iou, config.max_detections
    kept = [suppress(boxes, own, *limits) for own in scores]
    move = regress and config.passes == 1
    voting = regress and vote and config.vote_iou is not None
    voters = [np.flatnonzero(own > config.vote_score) if voting else NO_ROWS for own in scores]
    chosen = [*kept, *voters]
    placed = _move(scored, chosen) if move else [boxes[rows].astype(np.float32) for rows in chosen]
    found = []
    for c, own in enumerate(scores):
        best, its_scores = placed[c], own[kept[c]]
        if move:
            again = suppress(best.astype(np.float64), its_scores, *limits)
            best, its_scores = best[again], its_scores[again]
        if voting:
            weights = (own[voters[c]] - config.vote_score) * shares[voters[c]]
            around = placed[len(scores) + c], weights
            its_scores = its_scores + _find_support(best, *around, config)
            best = vote_on_boxes(best, *around, config.vote_iou)
        found.append((best, its_scores))
    return _join(found)


def _find_support(
    boxes: NDArray[np.float32],
    voters: NDArray[np.float32],
    weights: NDArray[np.float32],
    config: Config,
) -> NDArray[np.float32]:
    """Find what votes add to the scores of boxes, float32 (N, 4): float32 (N,)."""
    votes = sum_votes(boxes, voters, weights, config.support_iou)
    return np.asarray(config.support * np.log1p(votes), np.float32)


def _move(
    scored: Sequence[ScoredWindows], chosen: list[NDArray[np.int64]]
) -> list[NDArray[np.float32]]:
    """Move windows by the regressions of their classes.

    Parameters
    ----------
    scored : sequence of ScoredWindows
        Each model's windows.
    chosen : list of int64 (n,)
        Rows in all models' windows one after the other. The first C are of class 0, 1 and so on,
        and so are the next C.

    Returns
    -------
    list of float32 (n, 4)
        The boxes of each of `chosen`.
    """
    rows, lengths = np.concatenate(chosen), [len(one) for one in chosen]
    classes = np.repeat(np.arange(len(chosen)) % scored[0].scores.shape[1], lengths)
    moved = np.empty((len(rows), 4), np.float32)
    start = 0
    for one in scored:
        own = np.flatnonzero((rows >= start) & (rows < start + len(one.boxes)))
        own = own[np.argsort(classes[own], kind="stable")]  # a class's weights stay in a cache
        moved[own] = one.move(rows[own] - start, classes[own])
        start += len(one.boxes)
    return np.split(moved, np.cumsum(lengths)[:-1])


def _join(found: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Detections:
    labels = np.repeat(np.arange(len(found)), [len(scores) for _, scores in found])
    boxes = np.concatenate([boxes for boxes, _ in found]).astype(np.float32)
    scores = np.concatenate([scores for _, scores in found])
    order = np.argsort(-scores, kind="stable")
    return Detections(boxes[order], scores[order], labels[order])
