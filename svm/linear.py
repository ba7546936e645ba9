"""The linear SVM of one class."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_array, check_is_fitted

from svm.solver import solve_dual, solve_dual_in_blocks

MOST_PASSES = 10_000


class SvmError(ValueError):
    """Examples that an SVM cannot be trained on; one line says why."""


class LinearSvm(ClassifierMixin, BaseEstimator):
    """L2-regularised hinge loss, solved as liblinear does, at the release's settings.

    Parameters
    ----------
    c : float
        Weight of the losses.
    positive_weight : float
        Factor of the positives' losses.
    bias_multiplier : float
        Value of the constant feature; the larger, the less the bias is regularised.
    tolerance : float
        Largest spread of the dual's gradients at the end; liblinear's own is 0.1, early.
    seed : int
        Of the order in which examples are visited.

    Attributes
    ----------
    coef_ : numpy.ndarray
        Float32 ``(D,)``, a weight per feature.
    intercept_ : float
        What is added to the weighted features.
    classes_ : numpy.ndarray
        The labels, −1 and +1.

    Examples
    --------
    Two examples of each kind, so far apart that the loss can be 0; half way the score is 0.

    >>> import numpy as np
    >>> features = np.array([[0.0], [-1.0], [2.0], [3.0]])
    >>> svm = LinearSvm(c=100.0, positive_weight=1.0, bias_multiplier=1.0, tolerance=1e-8)
    >>> svm.fit(features, np.array([-1, -1, 1, 1])).decision_function([[1.0], [2.0]]).round(3) + 0.0
    array([0., 1.])
    >>> svm.predict([[0.5], [1.5]])
    array([-1,  1])
    """

    def __init__(
        self,
        c: float = 1e-3,
        positive_weight: float = 2.0,
        bias_multiplier: float = 10.0,
        tolerance: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.c = c
        self.positive_weight = positive_weight
        self.bias_multiplier = bias_multiplier
        self.tolerance = tolerance
        self.seed = seed

    def fit(self, features: NDArray[np.floating], labels: NDArray[np.integer]) -> LinearSvm:
        """Train on examples of both kinds.

        Where the tolerance is not met after 10,000 passes, scikit-learn's ConvergenceWarning is
        given and the last pass's weights are kept.

        Parameters
        ----------
        features : numpy.ndarray
            Float ``(N, D)``; worked on as float32.
        labels : numpy.ndarray
            ``(N,)``, +1 and −1.

        Returns
        -------
        LinearSvm
            Itself.

        Raises
        ------
        SvmError
            On other shapes, numbers that are not finite, other labels or only one of the two.
        """
        labels = np.asarray(labels)
        if np.ndim(features) != 2 or labels.shape != (len(features),):
            raise SvmError(
                f"features {np.shape(features)} and labels {labels.shape}: expected (N, D) and (N,)"
            )
        told = self._weigh(labels)
        return self._take(labels, *solve_dual(_check_rows(features), *told))

    def fit_in_blocks(
        self,
        read: Callable[[NDArray[np.int64]], NDArray[np.floating]],
        labels: NDArray[np.integer],
        most: int,
    ) -> LinearSvm:
        """Train as `fit` does on examples that are not all in memory at once.

        The result is that of `fit` up to the tolerance; it takes some passes over all examples.

        Parameters
        ----------
        read : callable
            Gives examples by their numbers, increasing int64 ``(n,)``: float ``(n, D)``.
        labels : numpy.ndarray
            ``(N,)``, +1 and −1.
        most : int
            Examples in memory at once, at least 1.

        Returns
        -------
        LinearSvm
            Itself.

        Raises
        ------
        SvmError
            As `fit`.

        Examples
        --------
        >>> import numpy as np
        >>> features = np.array([[0.0], [-1.0], [2.0], [3.0]])
        >>> svm = LinearSvm(c=100.0, positive_weight=1.0, bias_multiplier=1.0, tolerance=1e-8)
        >>> svm.fit_in_blocks(lambda rows: features[rows], np.array([-1, -1, 1, 1]), most=2)
        LinearSvm(bias_multiplier=1.0, c=100.0, positive_weight=1.0, tolerance=1e-08)
        >>> svm.decision_function([[1.0], [2.0]]).round(3) + 0.0
        array([0., 1.])
        """
        labels = np.asarray(labels)
        told = self._weigh(labels)
        return self._take(
            labels, *solve_dual_in_blocks(lambda rows: _check_rows(read(rows)), most, *told)
        )

    def _weigh(
        self, labels: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], float, float, int, np.random.Generator]:
        """What the solver is told besides the examples."""
        if set(np.unique(labels)) != {-1, 1}:
            raise SvmError("labels: expected both +1 and −1")
        costs = np.where(labels > 0, self.c * self.positive_weight, self.c)
        given = self.bias_multiplier, self.tolerance, MOST_PASSES
        return labels.astype(np.float32), costs, *given, np.random.default_rng(self.seed)

    def _take(
        self,
        labels: NDArray[np.integer],
        weights: NDArray[np.float64],
        of_bias: float,
        passes: int,
    ) -> LinearSvm:
        """Take what was solved."""
        if passes > MOST_PASSES:
            # The dual only ever grows, so the last pass's weights are the best.
            warnings.warn(
                f"SVM of {len(labels)} examples: not at tolerance {self.tolerance} after "
                f"{MOST_PASSES} passes, the last one's weights are taken",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.coef_ = weights.astype(np.float32)
        self.intercept_ = float(of_bias * self.bias_multiplier)
        self.classes_ = np.array([-1, 1])
        return self

    def decision_function(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return scores: the weighted sum of the features, and the intercept.

        Parameters
        ----------
        features : numpy.ndarray
            Float ``(N, D)``.

        Returns
        -------
        numpy.ndarray
            Float ``(N,)``, above 0 for +1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self)
        scores: NDArray[np.floating] = np.asarray(features) @ self.coef_ + self.intercept_
        return scores

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return labels: whether the score is above 0.

        Parameters
        ----------
        features : numpy.ndarray
            Float ``(N, D)``.

        Returns
        -------
        numpy.ndarray
            Int64 ``(N,)``, +1 or −1.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        return np.where(self.decision_function(features) > 0, 1, -1)


def _check_rows(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Examples as the solver takes them; SvmError where they are not finite or have no values."""
    try:
        rows: NDArray[np.float32] = check_array(features, dtype=np.float32, order="C")
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise SvmError(f"features {np.shape(features)}: {reason}") from error
    return rows
