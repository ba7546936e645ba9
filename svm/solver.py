"""Dual coordinate descent for the hinge loss (Hsieh et al., ICML 2008), by numba.

What liblinear does, on dense float32 rows: liblinear copies them into 16 bytes a value. Where not
all rows are to be in memory, block after block is solved (Yu, Hsieh, Chang, Lin, KDD 2010).
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numpy.typing import NDArray

BLOCK_PASSES = 5  # at most over a block while it is in memory


@numba.njit(cache=True, nogil=True, fastmath=True)
def _multiply(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@numba.njit(cache=True, nogil=True, fastmath=True)
def _add(a, factor, b):  # type: ignore[no-untyped-def]
    for i in range(len(a)):
        a[i] += factor * b[i]


@numba.njit(cache=True, nogil=True)
def solve_dual(rows, signs, costs, bias, tolerance, most, random):  # type: ignore[no-untyped-def]
    """Find w that minimises ½ |w|² + Σ costs · max(0, 1 − signs · w · row).

    Rows have one more value, ``bias``, which is not stored. Rows that stay at a bound are left out
    until the others are solved, as in liblinear.

    Parameters
    ----------
    rows : numpy.ndarray
        Float32 ``(N, D)``.
    signs : numpy.ndarray
        Float32 ``(N,)``, +1 and −1.
    costs : numpy.ndarray
        Float64 ``(N,)``, above 0.
    bias : float
        Value of the constant feature.
    tolerance : float
        Largest spread of the projected gradients at the end.
    most : int
        Passes over the rows.
    random : numpy.random.Generator
        Of the order of the rows.

    Returns
    -------
    weights : numpy.ndarray
        Float64 ``(D,)``.
    weight_of_bias : float
        The constant feature's weight.
    passes : int
        How many it took; ``most + 1`` without convergence.
    """
    count, length = rows.shape
    weights, alphas = np.zeros(length), np.zeros(count)
    weight_of_bias, passes, _, _ = _descend(
        rows, signs, costs, bias, tolerance, most, random, weights, 0.0, alphas
    )
    return weights, weight_of_bias, passes


@numba.njit(cache=True, nogil=True)
def _descend(  # type: ignore[no-untyped-def]
    rows, signs, costs, bias, tolerance, most, random, weights, weight_of_bias, alphas
):
    """Go on from weights and alphas, which change in place.

    Returns
    -------
    weight_of_bias : float
        The constant feature's weight.
    passes : int
        How many it took; ``most + 1`` without convergence.
    first_highest, first_lowest : float
        Of the projected gradients of all rows in the first pass.
    """
    count = len(rows)
    first_highest, first_lowest = -np.inf, np.inf
    norms = np.empty(count)
    for i in range(count):
        norms[i] = _multiply(rows[i], rows[i]) + bias * bias
    order = np.arange(count)
    active = count
    upper, lower = np.inf, -np.inf  # of the last pass's projected gradients
    for passed in range(1, most + 1):
        random.shuffle(order[:active])
        highest, lowest = -np.inf, np.inf
        place = 0
        while place < active:
            i = order[place]
            margin = _multiply(weights, rows[i]) + weight_of_bias * bias
            gradient = signs[i] * margin - 1.0
            projected = gradient
            if alphas[i] == 0:
                if gradient > upper:
                    active -= 1
                    order[place], order[active] = order[active], order[place]
                    continue
                projected = min(gradient, 0.0)
            elif alphas[i] == costs[i]:
                if gradient < lower:
                    active -= 1
                    order[place], order[active] = order[active], order[place]
                    continue
                projected = max(gradient, 0.0)
            highest, lowest = max(highest, projected), min(lowest, projected)
            if abs(projected) > 1e-12:
                before = alphas[i]
                alphas[i] = min(max(before - gradient / norms[i], 0.0), costs[i])
                step = (alphas[i] - before) * signs[i]
                _add(weights, step, rows[i])
                weight_of_bias += step * bias
            place += 1
        if passed == 1:
            first_highest, first_lowest = highest, lowest
        if highest - lowest <= tolerance:
            if active == count:
                return weight_of_bias, passed, first_highest, first_lowest
            active = count
            upper, lower = np.inf, -np.inf
            continue
        upper = highest if highest > 0 else np.inf
        lower = lowest if lowest < 0 else -np.inf
    return weight_of_bias, most + 1, first_highest, first_lowest


def solve_dual_in_blocks(
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    size: int,
    signs: NDArray[np.float32],
    costs: NDArray[np.float64],
    bias: float,
    tolerance: float,
    most: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.float64], float, int]:
    """Find what `solve_dual` does, with the rows of one block in memory at a time.

    Blocks are drawn anew in each pass: with the same ones it takes many more passes.

    Parameters
    ----------
    read : callable
        Gives rows by their numbers, increasing int64 ``(n,)``: float32 ``(n, D)``.
    size : int
        Rows of a block, at most.
    signs, costs, bias, tolerance : numpy.ndarray, float
        As of `solve_dual`.
    most : int
        Passes over all rows.
    random : numpy.random.Generator
        Of the blocks, and the order of their rows.

    Returns
    -------
    weights, weight_of_bias, passes
        As of `solve_dual`; a pass is one over all blocks.
    """
    count = len(signs)
    alphas, weights = np.zeros(count), np.zeros(0)
    weight_of_bias = 0.0
    for passed in range(1, most + 1):
        highest, lowest = -np.inf, np.inf
        for block in np.array_split(random.permutation(count), -(-count // size)):
            block.sort()
            rows, own = read(block), alphas[block]
            weights = weights if len(weights) else np.zeros(rows.shape[1])
            given = signs[block], costs[block], bias, tolerance, BLOCK_PASSES, random
            weight_of_bias, _, high, low = _descend(rows, *given, weights, weight_of_bias, own)
            del rows  # before the next are read
            alphas[block] = own
            highest, lowest = max(highest, high), min(lowest, low)
        if highest - lowest <= tolerance:
            return weights, weight_of_bias, passed
    return weights, weight_of_bias, most + 1
