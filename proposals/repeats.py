"""Windows that nearly equal a better one, by numba."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, fastmath=True)
def drop_repeated(boxes, most):  # type: ignore[no-untyped-def]
    """Say which boxes, float32 (N, 4), overlap no kept one before them by more than `most`.

    Returns
    -------
    int64 (K,), increasing.
    """
    kept = np.empty(len(boxes), np.int64)
    x1s, y1s = np.empty(len(boxes), np.float32), np.empty(len(boxes), np.float32)
    x2s, y2s = np.empty(len(boxes), np.float32), np.empty(len(boxes), np.float32)
    areas = np.empty(len(boxes), np.float32)
    count = 0
    most, nothing, one = np.float32(most), np.float32(0), np.float32(1)
    for i in range(len(boxes)):
        x1, y1, x2, y2 = boxes[i]
        area = (x2 - x1) * (y2 - y1)
        worst = nothing
        for k in range(count):  # no early end and no call, so that it runs several boxes at a time
            right = x2 if x2 < x2s[k] else x2s[k]
            left = x1 if x1 > x1s[k] else x1s[k]
            bottom = y2 if y2 < y2s[k] else y2s[k]
            top = y1 if y1 > y1s[k] else y1s[k]
            wide = right - left if right > left else nothing
            high = bottom - top if bottom > top else nothing
            excess = (one + most) * wide * high - most * (area + areas[k])
            worst = excess if excess > worst else worst
        if worst <= 0:
            kept[count] = i
            x1s[count], y1s[count], x2s[count], y2s[count] = x1, y1, x2, y2
            areas[count] = area
            count += 1
    return kept[:count]
