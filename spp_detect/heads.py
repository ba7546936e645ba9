"""What was learnt on top of the trunk: SVMs or a softmax, and box regressors."""

from __future__ import annotations

import torch
from torch import nn

from spp_detect.kernels.product import multiply_rows

TINY = 1e-7  # the least improbability of a class: its odds stay finite


class Heads(nn.Module):
    """The SVMs and box regressors of C classes on D pooled values.

    Where the windows are scored by the softmax that the fc layers were tuned under, its layer has a
    row more, of the background, and the regressors take what it takes.

    Parameters
    ----------
    svm_coef : float32 (C, F), or (C + 1, F)
        F values of the fc layers, D without.
    svm_intercept : float32 (C,), or (C + 1,)
        Added to each class's scores.
    regression_coef : float32 (C, D, 4), or (C, F, 4)
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

    @property
    def is_softmax(self) -> bool:
        """Whether a softmax scores the windows."""
        return len(self.svm_coef) > len(self.regression_coef)

    def score(self, described: torch.Tensor) -> torch.Tensor:
        """Score what the fc layers, or the pyramid, give of windows: (U, F) into float32 (U, C).

        A softmax's scores are the logarithms of the odds, 0 where a class is as likely as not.
        """
        scores = multiply_rows(described, self.svm_coef.T) + self.svm_intercept
        if not self.is_softmax:
            return scores
        likely = scores.log_softmax(dim=1)[:, :-1]
        return likely - torch.log(-torch.expm1(likely.clamp(max=-TINY)))

    def regress(self, described: torch.Tensor) -> torch.Tensor:
        """Find the targets of every class: (U, D) into float32 (U, C, 4)."""
        weights = self.regression_coef.transpose(0, 1).flatten(1)
        targets = multiply_rows(described, weights).unflatten(1, (-1, 4))
        return targets + self.regression_intercept

    @classmethod
    def empty(cls, classes: int, pooled: int, described: int, *, softmax: bool = False) -> Heads:
        """Make heads to load into, of `described` values for the SVMs and `pooled` for the rest."""
        return cls(
            torch.zeros(classes + softmax, described),
            torch.zeros(classes + softmax),
            torch.zeros(classes, described if softmax else pooled, 4),
            torch.zeros(classes, 4),
        )
