"""Probabilities for scores."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eval import Detections, ScoreOdds, find_log_odds


class Calibration(nn.Module):
    """The logarithm of the odds that a detection is right, by its score.

    Parameters
    ----------
    odds : float64 (4,)
        The numbers of an `eval.ScoreOdds`.
    """

    odds: torch.Tensor

    def __init__(self, odds: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("odds", odds.double())

    @classmethod
    def of(cls, odds: ScoreOdds) -> Calibration:
        """Make one of what was fitted."""
        return cls(torch.tensor(odds, dtype=torch.float64))

    @classmethod
    def identity(cls) -> Calibration:
        """Make that of scores which are log-odds already."""
        return cls.of(ScoreOdds(0.0, 1.0, 0.0, 0.0))

    def find_log_odds(self, scores: torch.Tensor) -> torch.Tensor:
        """Turn scores of windows, float32 (N, C), into log-odds; minus infinity stays."""
        intercept, slope, bend, knot = self.odds.tolist()
        return intercept + slope * scores + bend * (scores - knot).clamp(min=0)

    def find_probabilities(self, found: Detections) -> NDArray[np.float32]:
        """Find how likely it is that each detection is right: float32 (N,)."""
        odds = find_log_odds(found.scores.astype(float), ScoreOdds(*self.odds.tolist()))
        probabilities: NDArray[np.float32] = (1 / (1 + np.exp(-odds))).astype(np.float32)
        return probabilities
