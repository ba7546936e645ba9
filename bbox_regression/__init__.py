"""Bounding-box regression: from a window's pooled features to a better box."""

from .regressor import BoxRegressor
from .targets import RegressionError, decode, encode

__all__ = ["BoxRegressor", "RegressionError", "decode", "encode"]
