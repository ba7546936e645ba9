"""A cheap first look at all windows, so that the fc layers see only the promising ones."""

from __future__ import annotations

import torch
from torch import nn

from spp_detect.features import WindowFeatures


class FirstStage(nn.Module):
    """SVMs on pooled features, those of a pool5 model.

    Parameters
    ----------
    coef : float32 (C, D)
        A row of weights for each class.
    intercept : float32 (C,)
        Added to each class's scores.
    """

    coef: torch.Tensor
    intercept: torch.Tensor

    def __init__(self, coef: torch.Tensor, intercept: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("coef", coef)
        self.register_buffer("intercept", intercept)

    @classmethod
    def empty(cls, classes: int, pooled: int) -> FirstStage:
        """Make a first stage to load into."""
        return cls(torch.zeros(classes, pooled), torch.zeros(classes))

    @torch.inference_mode()
    def choose(self, pooled: WindowFeatures, count: int) -> WindowFeatures:
        """Keep the distinct windows whose best class scores highest, `count` of them.

        Parameters
        ----------
        pooled : WindowFeatures
            Of all windows.
        count : int
            Most distinct windows.

        Returns
        -------
        WindowFeatures
            Of the windows kept, in their order.
        """
        if len(pooled.first) <= count:
            return pooled
        return pooled.keep(self.find_best(pooled.features, count))

    @torch.inference_mode()
    def find_best(self, features: torch.Tensor, count: int) -> torch.Tensor:
        """Find the rows of (U, D) whose best class scores highest: int64, increasing."""
        # In the features' precision: it decides only which windows are looked at again.
        scores = (features @ self.coef.T.to(features.dtype) + self.intercept).amax(dim=1)
        return scores.topk(min(count, len(scores))).indices.sort().values
