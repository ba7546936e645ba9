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
        The numbers of an `eval.ScoreOdds`, for scores that votes have raised.
    window_odds : float64 (4,), optional
        The same for windows' own scores; by default votes make no difference.
    """

    odds: torch.Tensor
    window_odds: torch.Tensor

    def __init__(self, odds: torch.Tensor, window_odds: torch.Tensor | None = None) -> None:
        super().__init__()
        own = odds if window_odds is None else window_odds
        self.register_buffer("odds", odds.double())
        self.register_buffer("window_odds", own.double().clone())

    @classmethod
    def of(cls, odds: ScoreOdds, window_odds: ScoreOdds | None = None) -> Calibration:
        """Make one of what was fitted."""
        every = [torch.tensor(one, dtype=torch.float64) for one in (odds, window_odds or odds)]
        return cls(*every)

    @classmethod
    def identity(cls) -> Calibration:
        """Make that of scores which are log-odds already."""
        return cls.of(ScoreOdds(0.0, 1.0, 0.0, 0.0))

    def find_log_odds(self, scores: torch.Tensor) -> torch.Tensor:
        """Turn scores of windows, float32 (N, C), into log-odds; minus infinity stays."""
        intercept, slope, bend, knot = self.window_odds.tolist()
        return intercept + slope * scores + bend * (scores - knot).clamp(min=0)

    def find_probabilities(self, found: Detections, *, raised: bool) -> NDArray[np.float32]:
        """Find how likely it is that each detection is right: float32 (N,).

        Parameters
        ----------
        found : Detections
            Of one photograph or more.
        raised : bool
            Whether votes have raised their scores.
        """
        curve = ScoreOdds(*(self.odds if raised else self.window_odds).tolist())
        odds = find_log_odds(found.scores.astype(float), curve)
        probabilities: NDArray[np.float32] = (1 / (1 + np.exp(-odds))).astype(np.float32)
        return probabilities
