"""The box regressor of one class."""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from bbox_regression.ridge import RidgeSums
from bbox_regression.targets import RegressionError, check_shape, decode, encode


class BoxRegressor(BaseEstimator):
    """Predict from a window's pooled features where its object's box lies.

    Ridge regression in closed form of the targets of `encode`, as in the paper (section 4.1,
    "bounding box regression" of R-CNN) and the release. The targets are whitened: their mean is
    taken off and they are multiplied by ``V (D + epsilon)^-½ V'``, V and D from the covariance
    ``Y'Y / n``. A column of ones is the bias, regularised like the others. The solution is
    mapped back, so `predict` is one matrix product. As all four targets share one
    regularization, the whitening cancels out of the solution up to rounding; it is kept because
    the release states its λ for whitened targets.

    Rows may come a few at a time, through `partial_fit` and `solve`. Up to D rows (12,800) are
    kept as float32 and an n x n system is solved; from D + 1 on only the (D + 1) x (D + 1)
    Gram matrix is kept. All sums and solutions are float64 and rounded to float32 at the end, so
    it makes no difference how the rows were divided. Memory, whatever the number of rows: at
    most ``8 (D + 1)² + 4096 D`` bytes between calls (1.4 GB at D = 12,800) and ``12 D²`` with
    some room to work in (2.2 GB) at the worst moment.

    Parameters
    ----------
    regularization : float
        λ of the ridge: 1000 in R-CNN, 4000 in the release; not given in the paper.
    whitening_epsilon : float
        Added to the covariance's eigenvalues, so that a target without variance is no trouble.
    inclusive : bool
        Measure boxes as the release does, see `encode`.

    Attributes
    ----------
    coef_ : numpy.ndarray
        Float32 ``(D, 4)``, for targets that are not whitened.
    intercept_ : numpy.ndarray
        Float32 ``(4,)``.
    n_features_in_ : int
        D.

    Examples
    --------
    Every object lies 5 pixels to the right of its window, whatever the features.

    >>> import numpy as np
    >>> features = np.random.default_rng(0).random((40, 3))
    >>> windows = np.tile([10.0, 10.0, 30.0, 50.0], (40, 1))
    >>> regressor = BoxRegressor().fit(features, windows, windows + [5, 0, 5, 0])
    >>> regressor.predict(features[:1])
    array([[0.25, 0.  , 0.  , 0.  ]], dtype=float32)
    >>> regressor.transform(features[:1], windows[:1], size=(100, 100))
    array([[15., 10., 35., 50.]], dtype=float32)
    """

    _sums: RidgeSums | None = None

    def __init__(
        self,
        regularization: float = 1000.0,
        whitening_epsilon: float = 0.001,
        inclusive: bool = False,
    ) -> None:
        self.regularization = regularization
        self.whitening_epsilon = whitening_epsilon
        self.inclusive = inclusive

    def partial_fit(
        self, features: np.ndarray, windows: np.ndarray, truths: np.ndarray
    ) -> BoxRegressor:
        """Add windows and the boxes they should have been; nothing is solved yet.

        Parameters
        ----------
        features : numpy.ndarray
            Float32 ``(n, D)``, one row per window; n may be 0. Copied.
        windows, truths : numpy.ndarray
            Float32 ``(n, 4)``, x1 y1 x2 y2, 0-based, half-open, in pixels of the photograph.

        Returns
        -------
        BoxRegressor
            Itself.

        Raises
        ------
        RegressionError
            On other shapes, another D than before, numbers that are not finite, boxes without
            area, or after `solve`, which uses the sums up.
        """
        if hasattr(self, "coef_"):
            raise RegressionError("partial_fit after solve: make a new BoxRegressor, or call fit")
        sums = self._sums
        table = _check_features(features, None if sums is None else sums.features)
        targets = encode(windows, truths, inclusive=self.inclusive)
        check_shape(table, None, "features", len(targets))
        if sums is None:
            sums = self._sums = RidgeSums(table.shape[1], 4)
        sums.add(table, targets)
        return self

    def solve(self) -> BoxRegressor:
        """Compute ``coef_`` and ``intercept_`` from the rows so far and let go of the rows.

        Returns
        -------
        BoxRegressor
            Itself.

        Raises
        ------
        RegressionError
            Without rows, or with a parameter that is not positive.
        """
        for name in ("regularization", "whitening_epsilon"):
            value = getattr(self, name)
            if not 0 < value < np.inf:
                raise RegressionError(f"{name}: got {value}, expected a number above 0")
        sums = self._sums
        if sums is None or sums.count == 0:
            raise RegressionError("solve: no windows were given to partial_fit")
        mean = sums.target_mean()
        values, vectors = np.linalg.eigh(sums.target_covariance())
        # Rounding can leave the zero of a degenerate covariance a little below.
        spread = np.sqrt(values.clip(min=0) + self.whitening_epsilon)
        whitened = sums.solve(self.regularization, mean, vectors / spread @ vectors.T)
        self._sums = None
        solution = whitened @ (vectors * spread @ vectors.T)
        self.coef_ = solution[:-1].astype(np.float32)
        self.intercept_ = (solution[-1] + mean).astype(np.float32)
        self.n_features_in_ = len(self.coef_)
        return self

    def fit(self, features: np.ndarray, windows: np.ndarray, truths: np.ndarray) -> BoxRegressor:
        """Forget everything, then `partial_fit` and `solve`.

        Parameters
        ----------
        features : numpy.ndarray
            Float32 ``(n, D)``, one row per window, n above 0.
        windows, truths : numpy.ndarray
            Float32 ``(n, 4)``, as `partial_fit` takes them.

        Returns
        -------
        BoxRegressor
            Itself.

        Raises
        ------
        RegressionError
            As `partial_fit` and `solve`.
        """
        self._sums = None
        for name in ("coef_", "intercept_", "n_features_in_"):
            if hasattr(self, name):
                delattr(self, name)
        return self.partial_fit(features, windows, truths).solve()

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the targets for the windows with these features.

        Parameters
        ----------
        features : numpy.ndarray
            Float32 ``(n, D)``.

        Returns
        -------
        numpy.ndarray
            Float32 ``(n, 4)``, as `encode` gives them.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `solve` or `fit`.
        RegressionError
            On other shapes or numbers that are not finite.
        """
        check_is_fitted(self, ("coef_", "intercept_"))
        return _check_features(features, len(self.coef_)) @ self.coef_ + self.intercept_

    def transform(
        self, features: np.ndarray, windows: np.ndarray, size: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Return the windows moved to where their objects are predicted.

        Parameters
        ----------
        features : numpy.ndarray
            Float32 ``(n, D)``.
        windows : numpy.ndarray
            Float32 ``(n, 4)``, in pixels of the photograph.
        size : (width, height), optional
            Of the photograph; the boxes are clipped to it.

        Returns
        -------
        numpy.ndarray
            Float32 ``(n, 4)``, x1 y1 x2 y2; see `decode`.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `solve` or `fit`.
        RegressionError
            As `predict` and `decode`.
        """
        return decode(windows, self.predict(features), size, inclusive=self.inclusive)


def _check_features(features: np.ndarray, columns: int | None) -> np.ndarray:
    table = np.asarray(features)
    check_shape(table, columns, "features", None)
    table = table.astype(np.float32, copy=False)
    if table.shape[1] == 0 or not np.isfinite(table).all():
        raise RegressionError(f"features: shape {table.shape}, expected columns of finite numbers")
    return table
