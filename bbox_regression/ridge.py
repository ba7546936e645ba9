"""Ridge regression of rows that arrive a few at a time."""

from __future__ import annotations

import numpy as np
from scipy import linalg
from scipy.linalg.blas import dsyrk

from bbox_regression.targets import RegressionError

# Rows turned into float64 at once: 100 MB at D = 12,800.
_BLOCK = 1024


class RidgeSums:
    """The sums of a ridge regression with a bias column of ones, regularised like the others.

    Rows are kept as they are, float32, until there are more than D. From then on only the Gram
    matrix of D + 1 columns is kept, float64, with fewer than 1,024 rows waiting to be added.
    So at most ``max(4 D², 8 (D + 1)² + 4096 D)`` bytes are held between calls: at D = 12,800
    0.66 GB up to D rows, 1.4 GB beyond. At the worst moment, when D rows are added to the Gram
    matrix or solved, it is ``12 D²`` and some blocks of 1,024 rows: 2.2 GB. The time grows with the
    square of the number of rows up to D, and with their number from there on.

    Parameters
    ----------
    features : int
        D, the number of columns without the bias.
    targets : int
        The number of values to predict.
    """

    def __init__(self, features: int, targets: int) -> None:
        self.count = 0
        self.features = features
        self._rows: list[np.ndarray] = []
        self._waiting = 0
        self._targets: list[np.ndarray] = []
        self._gram: np.ndarray | None = None
        self._moment = np.zeros((features + 1, targets))
        self._target_sum = np.zeros(targets)
        self._target_square = np.zeros((targets, targets))

    def add(self, features: np.ndarray, targets: np.ndarray) -> None:
        """Add rows and their targets; both are copied.

        Parameters
        ----------
        features : numpy.ndarray
            Float32 ``(n, D)``.
        targets : numpy.ndarray
            Float64 ``(n, T)``.
        """
        for start in range(0, len(features), _BLOCK):
            self._rows.append(np.array(features[start : start + _BLOCK], dtype=np.float32))
            self._targets.append(np.array(targets[start : start + _BLOCK], dtype=np.float64))
            self._waiting += len(self._rows[-1])
            if self._waiting > (self.features if self._gram is None else _BLOCK):
                self._fold()
        self.count += len(features)
        self._target_sum += targets.sum(axis=0)
        self._target_square += targets.T @ targets

    def target_mean(self) -> np.ndarray:
        """Return the mean of the targets, ``(T,)``."""
        return self._target_sum / self.count

    def target_covariance(self) -> np.ndarray:
        """Return the covariance of the targets, ``(T, T)``, over n (not n - 1) as the release."""
        mean = self.target_mean()
        return self._target_square / self.count - np.outer(mean, mean)

    def solve(self, regularization: float, mean: np.ndarray, transform: np.ndarray) -> np.ndarray:
        """Return the coefficients for targets ``(y - mean) @ transform``; the sums are used up.

        Parameters
        ----------
        regularization : float
            λ, above 0.
        mean : numpy.ndarray
            Float64 ``(T,)``.
        transform : numpy.ndarray
            Float64 ``(T, T)``.

        Returns
        -------
        numpy.ndarray
            Float64 ``(D + 1, T)``; the last row is the bias.

        Raises
        ------
        RegressionError
            Where λ is too small for the sums to be solved.
        """
        try:
            if self._gram is None:
                return self._solve_dual(regularization, mean, transform)
            self._fold()
            return self._solve_primal(regularization, mean, transform)
        except linalg.LinAlgError:
            raise RegressionError(
                f"regularization: {regularization} is too small for these features"
            ) from None

    def _fold(self) -> None:
        """Move the waiting rows into the Gram matrix (its upper triangle) and X'Y."""
        width = self.features + 1
        if self._gram is None:
            self._gram = np.zeros((width, width), order="F")
        while self._rows:
            rows, targets = self._take_block()
            block = np.ones((len(rows), width))
            block[:, :-1] = rows
            # In place: the transpose of a C-ordered block is the F-ordered array BLAS wants.
            self._gram = dsyrk(1.0, block.T, beta=1.0, c=self._gram, overwrite_c=True)
            self._moment += block.T @ targets
        self._waiting = 0

    def _take_block(self) -> tuple[np.ndarray, np.ndarray]:
        """Return up to 1,024 of the waiting rows with their targets, and let go of them."""
        pieces, length = 0, 0
        while pieces < len(self._rows) and length + len(self._rows[pieces]) <= _BLOCK:
            length += len(self._rows[pieces])
            pieces += 1
        rows, targets = np.concatenate(self._rows[:pieces]), np.concatenate(self._targets[:pieces])
        del self._rows[:pieces], self._targets[:pieces]
        return rows, targets

    def _solve_primal(
        self, regularization: float, mean: np.ndarray, transform: np.ndarray
    ) -> np.ndarray:
        """Solve (X'X + λI) B = X'(Y - mean) T, D + 1 equations."""
        gram, self._gram = self._gram, None
        assert gram is not None
        # The last column of X'X is X'1, the sum of the rows.
        right = (self._moment - np.outer(gram[:, -1], mean)) @ transform
        _add_to_diagonal(gram, regularization)
        factor = linalg.cho_factor(gram, overwrite_a=True, check_finite=False)
        return np.asarray(linalg.cho_solve(factor, right, check_finite=False))

    def _solve_dual(
        self, regularization: float, mean: np.ndarray, transform: np.ndarray
    ) -> np.ndarray:
        """Solve (XX' + λI) A = (Y - mean) T, n equations; B = X'A."""
        rows = np.concatenate(self._rows)
        self._rows.clear()
        kernel = np.ones((len(rows), len(rows)), order="F")
        for start in range(0, self.features, _BLOCK):
            block = np.asfortranarray(rows[:, start : start + _BLOCK], dtype=np.float64)
            kernel = dsyrk(1.0, block, beta=1.0, c=kernel, overwrite_c=True)
        _add_to_diagonal(kernel, regularization)
        factor = linalg.cho_factor(kernel, overwrite_a=True, check_finite=False)
        right = (np.concatenate(self._targets) - mean) @ transform
        weights = linalg.cho_solve(factor, right, check_finite=False)
        solution = np.empty((self.features + 1, right.shape[1]))
        for start in range(0, self.features, _BLOCK):
            block = rows[:, start : start + _BLOCK].astype(np.float64)
            solution[start : start + block.shape[1]] = block.T @ weights
        solution[-1] = weights.sum(axis=0)
        return solution


def _add_to_diagonal(matrix: np.ndarray, value: float) -> None:
    index = np.arange(len(matrix))
    matrix[index, index] += value
