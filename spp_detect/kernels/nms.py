"""Greedy non-maximum suppression, and votes on the boxes that it keeps; on the CPU, by numba."""

from __future__ import annotations

import heapq

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def suppress(boxes, scores, least, iou, most):  # type: ignore[no-untyped-def]
    """Keep the best boxes that do not overlap a better one.

    Boxes come out of a heap one by one and are compared with those kept, so that nothing is
    computed for what comes after the last that is wanted.

    Parameters
    ----------
    boxes : float (N, 4)
        In whose precision overlaps are computed.
    scores : float (N,)
        Higher is better.
    least : float
        Only boxes that score above are kept.
    iou : float
        A box that overlaps a kept one by more is not kept.
    most : int
        Boxes kept.

    Returns
    -------
    int64 (n,)
        Rows, at most `most`, best first, of equal scores the first.
    """
    waiting = [(scores.dtype.type(0), 0)]
    waiting.clear()  # it gave the list its type
    for row in range(len(scores)):
        if scores[row] > least:
            waiting.append((-scores[row], row))
    heapq.heapify(waiting)
    kept = np.empty(min(most, len(waiting)), np.int64)
    count = 0
    while count < len(kept) and len(waiting):
        row = heapq.heappop(waiting)[1]
        free = True
        for k in kept[:count]:
            if _find_iou(boxes[row], boxes[k]) > iou:
                free = False
                break
        if free:
            kept[count] = row
            count += 1
    return kept[:count]


@numba.njit(cache=True, nogil=True)
def vote_on_boxes(boxes, voters, weights, iou):  # type: ignore[no-untyped-def]
    """Average for each box the voters that overlap it.

    Parameters
    ----------
    boxes : float32 (N, 4)
        In pixels.
    voters : float32 (M, 4)
        In the same pixels.
    weights : float (M,)
        Of the voters, above 0.
    iou : float
        Least overlap of a voter.

    Returns
    -------
    float32 (N, 4)
        A box that none overlaps stays as it is.
    """
    voted = boxes.copy()
    for k in range(len(boxes)):
        total = 0.0
        corners = np.zeros(4)
        for v in range(len(voters)):
            if _find_iou(boxes[k], voters[v]) >= iou:
                total += weights[v]
                for i in range(4):
                    corners[i] += weights[v] * voters[v, i]
        if total > 0:
            for i in range(4):
                voted[k, i] = corners[i] / total
    return voted


@numba.njit(cache=True, nogil=True)
def sum_votes(boxes, voters, weights, iou):  # type: ignore[no-untyped-def]
    """Sum for each box the weights of the voters that overlap it.

    Parameters
    ----------
    boxes, voters, weights, iou : float32 (N, 4), float32 (M, 4), float (M,), float
        As of `vote_on_boxes`.

    Returns
    -------
    float64 (N,)
        0 for a box that none overlaps.
    """
    sums = np.zeros(len(boxes))
    for k in range(len(boxes)):
        for v in range(len(voters)):
            if _find_iou(boxes[k], voters[v]) >= iou:
                sums[k] += weights[v]
    return sums


@numba.njit(cache=True, nogil=True, inline="always")
def _find_iou(a, b):  # type: ignore[no-untyped-def]
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return width - width  # 0 in the boxes' precision, without area's 0 / 0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)
