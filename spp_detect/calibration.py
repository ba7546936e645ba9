"""Probabilities for the scores of SVMs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eval import Detections, Platt


class Calibration(nn.Module):
    """The logarithm of the odds that a detection is right, a line in its score for each class.

    Parameters
    ----------
    slope, intercept : float32 (C,)
        Log-odds = slope · score + intercept.
    """

    slope: torch.Tensor
    intercept: torch.Tensor

    def __init__(self, slope: torch.Tensor, intercept: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("slope", slope)
        self.register_buffer("intercept", intercept)

    @classmethod
    def of(cls, platt: Platt) -> Calibration:
        """Make one of what was fitted."""
        slope, intercept = (torch.from_numpy(one).float() for one in platt)
        return cls(slope, intercept)

    @classmethod
    def identity(cls, classes: int) -> Calibration:
        """Make that of scores which are log-odds already."""
        return cls(torch.ones(classes), torch.zeros(classes))

    def find_log_odds(self, scores: torch.Tensor) -> torch.Tensor:
        """Turn scores of windows, float (N, C), into log-odds."""
        return scores * self.slope + self.intercept

    def find_probabilities(self, found: Detections) -> NDArray[np.float32]:
        """Find how likely it is that each detection is right: float32 (N,)."""
        slope, intercept = (one.float().cpu().numpy() for one in (self.slope, self.intercept))
        odds = found.scores * slope[found.labels] + intercept[found.labels]
        probabilities: NDArray[np.float32] = (1 / (1 + np.exp(-odds))).astype(np.float32)
        return probabilities
