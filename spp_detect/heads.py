"""What was learnt on top of the trunk: SVMs and box regressors."""

from __future__ import annotations

import torch
from torch import nn


class Heads(nn.Module):
    """The SVMs and box regressors of C classes on D pooled values.

    Parameters
    ----------
    svm_coef : float32 (C, F)
        F values of the fc layers, D without.
    svm_intercept : float32 (C,)
        Added to each class's scores.
    regression_coef : float32 (C, D, 4)
        Of the four targets of each class.
    regression_intercept : float32 (C, 4)
        Added to each target.
    """

    svm_coef: torch.Tensor
    svm_intercept: torch.Tensor
    regression_coef: torch.Tensor
    regression_intercept: torch.Tensor

    def __init__(
        self,
        svm_coef: torch.Tensor,
        svm_intercept: torch.Tensor,
        regression_coef: torch.Tensor,
        regression_intercept: torch.Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("svm_coef", svm_coef)
        self.register_buffer("svm_intercept", svm_intercept)
        # In memory as it is multiplied: a class's weights of one target side by side.
        coef = regression_coef.transpose(1, 2).contiguous().transpose(1, 2)
        self.register_buffer("regression_coef", coef)
        self.register_buffer("regression_intercept", regression_intercept)

    @classmethod
    def empty(cls, classes: int, pooled: int, described: int) -> Heads:
        """Make heads to load into, of `described` values for the SVMs and `pooled` for the rest."""
        return cls(
            torch.zeros(classes, described),
            torch.zeros(classes),
            torch.zeros(classes, pooled, 4),
            torch.zeros(classes, 4),
        )
