"""Bounding-box regression: from a window's pooled features to a better box."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bbox_regression.targets import RegressionError, decode, decode_tensor, encode

if TYPE_CHECKING:
    from bbox_regression.regressor import BoxRegressor

# Imported when first asked for, as it brings scikit-learn.
_HOMES = {"BoxRegressor": "regressor"}

__all__ = ["BoxRegressor", "RegressionError", "decode", "decode_tensor", "encode"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
