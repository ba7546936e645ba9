"""Bounding-box regression: from a window's pooled features to a better box."""

from bbox_regression.regressor import BoxRegressor
from bbox_regression.targets import RegressionError, decode, decode_tensor, encode

__all__ = ["BoxRegressor", "RegressionError", "decode", "decode_tensor", "encode"]
