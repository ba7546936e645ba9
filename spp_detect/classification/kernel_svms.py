"""Linear SVMs from the inner products of their examples, one against the rest.

There are fewer photographs here than values of a feature, and many SVMs on the same photographs:
the products are computed once, and every SVM, whatever its class, C or part of the photographs,
is solved on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC

from spp_detect.classification.image_labels import HARDLY


@dataclass(frozen=True)
class KernelSvms:
    """SVMs of K classes trained on N examples.

    Attributes
    ----------
    weights : float32 (N, K)
        Of the examples.
    intercepts : float32 (K,)
        What is added.
    """

    weights: NDArray[np.float32]
    intercepts: NDArray[np.float32]

    def score(self, kernel: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score photographs by their kernel with the N examples: (M, N) gives (M, K)."""
        return kernel @ self.weights + self.intercepts


def train_svms(kernel: NDArray[np.float32], labels: NDArray[np.int64], c: float) -> KernelSvms:
    """Train an SVM for each class against the rest: hinge loss, the intercept not regularised.

    Parameters
    ----------
    kernel : float32 (N, N)
        Of the examples with each other.
    labels : int64 (N, K)
        1, −1, or 0 for an example that the class is not trained on. Each class has both kinds.
    c : float
        Weight of the losses.

    Returns
    -------
    KernelSvms
        Its scores are above 0 for 1.

    Examples
    --------
    Examples at 0 and 2: half way the score is 0.

    >>> at = np.array([[0], [2]], np.float32)
    >>> svms = train_svms(at @ at.T, np.array([[-1], [1]]), c=10)
    >>> svms.score(np.array([[1], [2]], np.float32) @ at.T).round(3)
    array([[0.],
           [1.]], dtype=float32)
    """
    weights = np.zeros(labels.shape, np.float32)
    intercepts = np.zeros(labels.shape[1], np.float32)
    whole = kernel.astype(np.float64)
    for k, own in enumerate(labels.T):
        told = np.flatnonzero(own != HARDLY)
        among = whole if len(told) == len(own) else whole[np.ix_(told, told)]
        svm = SVC(kernel="precomputed", C=c).fit(among, own[told])
        weights[told[svm.support_], k] = svm.dual_coef_[0]
        intercepts[k] = svm.intercept_[0]
    return KernelSvms(weights, intercepts)


def pick_best(measured: Sequence[float], tried: Sequence[float]) -> float:
    """Pick the C that measured best, the smallest of several; NaN counts as nothing."""
    return tried[int(np.argmax(np.nan_to_num(measured)))]
