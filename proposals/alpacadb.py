"""Selective search as AlpacaDB's package ``selectivesearch`` implements it."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from proposals.settings import ProposalError

# With the package's usual 500, 0.9, 10 the segments are coarse: fewer windows, lower recall.
_SCALE, _SIGMA, _MIN_SIZE = 200.0, 0.8, 20

# The package computes its texture on a float array, which scikit-image warns of on every call.
warnings.filterwarnings("ignore", message="Applying `local_binary_pattern`", category=UserWarning)


def search_alpacadb(photo: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the windows of AlpacaDB's selective search, as a set in lexicographic order.

    The package loops over pixels in Python and so holds the interpreter lock: threads do not
    make it faster. It reports widths and heights one less than its regions have.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB, at the size to work at.

    Returns
    -------
    float64 (N, 4)
        Half-open boxes in pixels of ``photo``.

    Raises
    ------
    ProposalError
        If the package is not installed.
    """
    try:
        import selectivesearch
    except ImportError as error:
        raise ProposalError(f"method 'alpacadb' needs selectivesearch 0.4: {error}") from error

    _, regions = selectivesearch.selective_search(
        photo, scale=_SCALE, sigma=_SIGMA, min_size=_MIN_SIZE
    )
    found = np.array([region["rect"] for region in regions], np.float64).reshape(-1, 4)
    found[:, 2:] += found[:, :2] + 1
    return np.unique(found, axis=0)
