"""Products of pooled features, half precision as it is stored, with float32 weights."""

from __future__ import annotations

import numba
import numpy as np
import torch
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

# Multiplied at once. Half precision is turned into floats before, into memory used again, and the
# floats stay in a core's cache.
ROWS, HALF_ROWS = 256, 64
# Pairs among all rows and classes, above which one product of all is faster.
MOST_PAIRS = 0.25


def multiply_rows(rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Multiply (U, D) of any precision by float32 (D, K): float32 (U, K)."""
    if rows.device.type != "cpu":
        return rows.float() @ weights
    if rows.dtype == torch.float32:
        return torch.cat([part @ weights for part in rows.split(ROWS)])
    product = weights.new_empty((len(rows), weights.shape[1]))
    floats = weights.new_empty((min(HALF_ROWS, len(rows)), rows.shape[1]))
    for part, out in zip(rows.split(HALF_ROWS), product.split(HALF_ROWS), strict=True):
        torch.mm(floats[: len(part)].copy_(part), weights, out=out)
    return product


def multiply_pairs(
    rows: torch.Tensor,
    weights: torch.Tensor,
    chosen: NDArray[np.int64],
    classes: NDArray[np.int64],
) -> torch.Tensor:
    """Multiply some rows by the weights of some class each.

    Parameters
    ----------
    rows : float (U, D)
        Of any precision.
    weights : float32 (C, D, 4)
        On the same device; fastest where it is the transpose of a contiguous (C, 4, D).
    chosen : int64 (P,)
        Indices of rows; fastest where those of a class come together.
    classes : int64 (P,)
        Whose weights each is multiplied by.

    Returns
    -------
    float32 (P, 4)
        On the device.
    """
    count = len(weights)
    own = rows.dtype in (torch.float32, torch.bfloat16) and rows.device.type == "cpu"
    if not own or len(chosen) > MOST_PAIRS * len(rows) * count:
        every = multiply_rows(rows, weights.transpose(0, 1).flatten(1))
        at = torch.from_numpy(chosen).to(rows.device), torch.from_numpy(classes).to(rows.device)
        return every.unflatten(1, (count, 4))[at]
    half = rows.dtype == torch.bfloat16
    numbers = (rows.view(torch.int16) if half else rows).contiguous().numpy()
    by_value = weights.transpose(1, 2).contiguous().numpy()
    products = np.empty((len(chosen), 4), np.float32)
    _multiply(numbers, by_value, chosen, classes, products)
    return torch.from_numpy(products)


@numba.njit(parallel=True, cache=True, nogil=True)
def _multiply(rows, weights, chosen, classes, products):  # type: ignore[no-untyped-def]
    for p in numba.prange(len(chosen)):
        _multiply_one(_read(rows[chosen[p]]), weights[classes[p]], products[p])


@numba.njit(cache=True, nogil=True, fastmath=True)
def _multiply_one(row, weights, product):  # type: ignore[no-untyped-def]
    w0, w1, w2, w3 = weights[0], weights[1], weights[2], weights[3]
    p0 = p1 = p2 = p3 = np.float32(0)
    for d in range(len(row)):
        p0 += row[d] * w0[d]
        p1 += row[d] * w1[d]
        p2 += row[d] * w2[d]
        p3 += row[d] * w3[d]
    product[0], product[1], product[2], product[3] = p0, p1, p2, p3


def _read(row):  # type: ignore[no-untyped-def]
    """Make floats of a row (D,): of bfloat16's bits, which are the upper half of a float's."""


@overload(_read)
def _read_by_type(row):  # type: ignore[no-untyped-def]
    if not isinstance(row.dtype, types.Integer):
        return lambda row: row

    def read(row):  # type: ignore[no-untyped-def]
        floats = np.empty(len(row), np.float32)
        bits = floats.view(np.uint32)
        for d in range(len(row)):
            bits[d] = np.uint32(row[d]) << np.uint32(16)
        return floats

    return read
