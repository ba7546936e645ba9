"""A cheap first look at all windows, so that the fc layers see only the promising ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.features import WindowFeatures


@dataclass(frozen=True)
class FirstStage:
    """SVMs on pooled features, those of a pool5 model.

    Attributes
    ----------
    coef : float32 (C, D).
    intercept : float32 (C,).
    """

    coef: torch.Tensor
    intercept: torch.Tensor

    def to(self, device: torch.device) -> FirstStage:
        """Move to a device."""
        return FirstStage(self.coef.to(device), self.intercept.to(device))

    @torch.inference_mode()
    def choose(
        self, pooled: WindowFeatures, windows: NDArray[np.float32], count: int
    ) -> tuple[WindowFeatures, NDArray[np.float32]]:
        """Keep the distinct windows whose best class scores highest, `count` of them.

        Parameters
        ----------
        pooled : features of the windows.
        windows : float32 (N, 4).
        count : most distinct windows.

        Returns
        -------
        The features and windows kept, in their order.
        """
        if len(pooled.first) <= count:
            return pooled, windows
        return keep_rows(pooled, windows, self.find_best(pooled.features, count))

    @torch.inference_mode()
    def find_best(self, features: torch.Tensor, count: int) -> torch.Tensor:
        """Find the rows of (U, D) whose best class scores highest: int64, increasing."""
        # In the features' precision: it decides only which windows are looked at again.
        scores = (features @ self.coef.T.to(features.dtype) + self.intercept).amax(dim=1)
        return scores.topk(min(count, len(scores))).indices.sort().values


def keep_rows(
    pooled: WindowFeatures, windows: NDArray[np.float32], rows: torch.Tensor
) -> tuple[WindowFeatures, NDArray[np.float32]]:
    """Keep some of the distinct windows, by their increasing rows, and what falls on them."""
    number = np.full(len(pooled.first), -1)
    number[rows.cpu().numpy()] = np.arange(len(rows))
    kept = number[pooled.inverse] >= 0
    inverse = number[pooled.inverse[kept]]
    first = np.unique(inverse, return_index=True)[1]
    return WindowFeatures(pooled.features[rows], first, inverse), windows[kept]
