"""Dual coordinate descent for the hinge loss (Hsieh et al., ICML 2008), by numba.

What liblinear does, on dense float32 rows: liblinear copies them into 16 bytes a value.
"""

from __future__ import annotations

import numba
import numpy as np


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
    weights = np.zeros(length)
    weight_of_bias = 0.0
    alphas = np.zeros(count)
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
        if highest - lowest <= tolerance:
            if active == count:
                return weights, weight_of_bias, passed
            active = count
            upper, lower = np.inf, -np.inf
            continue
        upper = highest if highest > 0 else np.inf
        lower = lowest if lowest < 0 else -np.inf
    return weights, weight_of_bias, most + 1
