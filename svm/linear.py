"""The linear SVM of one class."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted


class SvmError(ValueError):
    """Examples that an SVM cannot be trained on; one line says why."""


class LinearSvm(ClassifierMixin, BaseEstimator):
    """L2-regularised hinge loss, solved by liblinear, at the release's settings.

    Parameters
    ----------
    c : weight of the losses.
    positive_weight : factor of the positives' losses.
    bias_multiplier : value of the constant feature; the larger, the less the bias is regularised.
    tolerance : liblinear's stopping tolerance; 0.1 is its own for this solver, and early.
    seed : of the order in which liblinear visits examples.

    Attributes
    ----------
    coef_ : float32 (D,)
    intercept_ : float
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
        """Train on float (N, D) features and labels of +1 and −1, (N,).

        Raises
        ------
        SvmError
            unless both labels occur, shapes agree and liblinear converges.
        """
        labels = np.asarray(labels)
        if np.ndim(features) != 2 or labels.shape != (len(features),):
            raise SvmError(
                f"features {np.shape(features)} and labels {labels.shape}: expected (N, D) and (N,)"
            )
        if set(np.unique(labels)) != {-1, 1}:
            raise SvmError("labels: expected both +1 and −1")
        machine = LinearSVC(
            loss="hinge",
            C=self.c,
            class_weight={1: self.positive_weight, -1: 1.0},
            intercept_scaling=self.bias_multiplier,
            tol=self.tolerance,
            max_iter=10_000,
            random_state=self.seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                machine.fit(features, labels)
            except ConvergenceWarning as error:
                raise SvmError(
                    f"SVM of {len(labels)} examples: no convergence at tolerance {self.tolerance}"
                ) from error
            except ValueError as error:  # NaN, infinity, no features
                reason = " ".join(str(error).split())
                raise SvmError(f"features {np.shape(features)}: {reason}") from error
        self.coef_ = machine.coef_[0].astype(np.float32)
        self.intercept_ = float(machine.intercept_[0])
        self.classes_ = np.array([-1, 1])
        return self

    def decision_function(self, features: NDArray[np.floating]) -> NDArray[np.floating]:
        """Scores (N,) of features (N, D)."""
        check_is_fitted(self)
        scores: NDArray[np.floating] = np.asarray(features) @ self.coef_ + self.intercept_
        return scores

    def predict(self, features: NDArray[np.floating]) -> NDArray[np.int64]:
        """Labels +1 or −1, (N,), of features (N, D)."""
        return np.where(self.decision_function(features) > 0, 1, -1)
