"""Greedy suppression on a GPU, by Triton: a program for each class."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


def suppress_on_gpu(
    boxes: torch.Tensor, scores: torch.Tensor, least: float, iou: float, most: int
) -> torch.Tensor:
    """Keep boxes as `class_nms.suppress_classes` does, on the GPU where they are."""
    classes, count = scores.shape
    kept = torch.full((classes, most), -1, dtype=torch.int64, device=scores.device)
    alive = torch.where(scores > least, scores, -torch.inf)
    # In memory: as an argument it would be rounded to float32.
    limit = torch.full((1,), iou, dtype=torch.float64, device=scores.device)
    own = 4 * count if boxes.ndim == 3 else 0
    block = triton.next_power_of_2(count)
    warps = min(16, max(1, block // 512))
    inputs = boxes.contiguous(), alive.contiguous(), limit
    _suppress[(classes,)](*inputs, kept, count, own, most, BLOCK=block, num_warps=warps)
    return kept


@triton.jit(do_not_specialize=["count", "own", "most"])
def _suppress(  # type: ignore[no-untyped-def]
    boxes, scores, limit, kept, count, own, most, BLOCK: tl.constexpr
):
    """Keep one class's best box after the other, and drop what overlaps it."""
    c = tl.program_id(0).to(tl.int64)
    rows = tl.arange(0, BLOCK)
    inside = rows < count
    corners = boxes + c * own + 4 * rows
    alive = tl.load(scores + c * count + rows, inside, other=float("-inf"))
    iou = tl.load(limit)
    number = 0
    best, row = tl.max(alive, axis=0, return_indices=True)  # of equal ones the first
    while (number < most) & (best > float("-inf")):
        tl.store(kept + c * most + number, row.to(tl.int64))
        chosen = boxes + c * own + 4 * row
        # Boxes are read again each time: all of them would not stay in registers.
        left, top, right, bottom = _load_box(chosen, True)
        x0, y0, x1, y1 = _load_box(corners, inside)
        width = tl.minimum(right, x1) - tl.maximum(left, x0)
        height = tl.minimum(bottom, y1) - tl.maximum(top, y0)
        both = tl.maximum(width, 0) * tl.maximum(height, 0)
        areas = (right - left) * (bottom - top) + (x1 - x0) * (y1 - y0)
        over = tl.where(both > 0, both / (areas - both), 0) > iou
        alive = tl.where(over | (rows == row), float("-inf"), alive)
        best, row = tl.max(alive, axis=0, return_indices=True)
        number += 1


@triton.jit
def _load_box(corners, inside):  # type: ignore[no-untyped-def]
    """Load left, top, right, bottom."""
    left, top = tl.load(corners, inside), tl.load(corners + 1, inside)
    return left, top, tl.load(corners + 2, inside), tl.load(corners + 3, inside)
