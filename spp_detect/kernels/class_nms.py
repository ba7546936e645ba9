"""Greedy suppression of all classes at once, and votes, in shapes that do not depend on values.

What `kernels.nms` does class by class on the CPU, for a GPU: nothing is read back from it.
"""

from __future__ import annotations

import torch

from spp_detect.kernels.compiler import can_compile

MOST_OVERLAPS = 1 << 24  # computed at once: bounds the memory


def suppress_classes(
    boxes: torch.Tensor, scores: torch.Tensor, least: float, iou: float, most: int
) -> torch.Tensor:
    """Keep the best boxes of each class that do not overlap a better one, as `nms.suppress`.

    Parameters
    ----------
    boxes : float64 (M, 4), or (C, M, 4)
        The same for all classes, or each class's own.
    scores : float32 (C, M)
        Minus infinity where there is no box.
    least, iou : float
        As of `nms.suppress`.
    most : int
        Boxes kept of a class.

    Returns
    -------
    int64 (C, most)
        Rows, best first; -1 behind the last.
    """
    if not scores.shape[1]:
        return torch.full((len(scores), most), -1, device=scores.device)
    if scores.device.type == "cuda" and can_compile():
        from spp_detect.kernels.gpu_nms import suppress_on_gpu  # triton takes a second to import

        return suppress_on_gpu(boxes, scores, least, iou, most)
    return suppress_with_torch(boxes, scores, least, iou, most)


def suppress_with_torch(
    boxes: torch.Tensor, scores: torch.Tensor, least: float, iou: float, most: int
) -> torch.Tensor:
    """Keep boxes as `suppress_classes` does, one of each class at a time."""
    each = boxes.expand(len(scores), *boxes.shape[-2:])
    alive = torch.where(scores > least, scores, -torch.inf)
    kept = []
    for _ in range(most):
        best, rows = alive.max(dim=1)  # of equal ones the first
        chosen = each.gather(1, rows[:, None, None].expand(-1, 1, 4))
        over = find_overlaps(chosen, each)[:, 0] > iou
        over.scatter_(1, rows[:, None], True)  # itself, whatever its area
        alive = alive.masked_fill(over, -torch.inf)
        kept.append(torch.where(best > -torch.inf, rows, -1))
    return torch.stack(kept, dim=1)


def find_overlaps(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union of float (…, N, 4) and (…, M, 4): (…, N, M), 0 without area."""
    a, b = boxes[..., :, None, :], others[..., None, :, :]
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    both = sides.clamp(min=0).prod(dim=-1)
    areas = [(one[..., 2] - one[..., 0]) * (one[..., 3] - one[..., 1]) for one in (a, b)]
    return torch.where(both > 0, both / (areas[0] + areas[1] - both), 0)


def sum_voters(
    boxes: torch.Tensor, voters: torch.Tensor, weights: torch.Tensor, iou: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum for each box of each class the voters that overlap it, as `nms.vote_on_boxes` does.

    Parameters
    ----------
    boxes : float32 (C, K, 4)
        Each class's.
    voters : float32 (M, 4), or (C, M, 4)
        The same for all classes, or each class's own.
    weights : float32 (C, M)
        0 for what does not vote.
    iou : float
        Least overlap of a voter.

    Returns
    -------
    totals : float64 (C, K)
        Of the weights.
    corners : float64 (C, K, 4)
        Of the voters times their weights.
    """
    each = voters.expand(len(boxes), *voters.shape[-2:])
    step = max(1, MOST_OVERLAPS // max(1, boxes.shape[1] * each.shape[1]))
    totals, corners = [], []
    parts = zip(boxes.split(step), each.split(step), weights.split(step), strict=True)
    for own, around, heavy in parts:
        near = find_overlaps(own, around) >= iou
        counted = torch.where(near, heavy[:, None], 0).double()
        totals.append(counted.sum(dim=2))
        corners.append(counted @ around.double())
    return torch.cat(totals), torch.cat(corners)
