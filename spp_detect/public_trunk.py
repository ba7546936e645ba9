"""A public trunk that a model goes without: recognised by what it computes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spp_detect.backbones import Backbone

PATTERN_SIDE = 96  # pixels
MOST_DIFFERENCE = 0.01  # of the maps' norm: half precision takes 0.0003, other weights about 1


class PublicTrunk(nn.Module):
    """What a trunk makes of a fixed pattern, in half precision, to know it again.

    Parameters
    ----------
    maps : float16 (C, h, w)
        The trunk's maps of `draw_pattern`.
    """

    maps: torch.Tensor

    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("maps", maps)

    @classmethod
    def of(cls, backbone: Backbone) -> PublicTrunk:
        """Compute the maps by a trunk."""
        return cls(compute_maps(backbone).half())

    def differs(self, backbone: Backbone) -> float:
        """Measure how far a trunk's maps are from these: the norm of the difference over theirs."""
        ours = self.maps.float().cpu()
        return float((compute_maps(backbone) - ours).norm() / ours.norm().clamp(min=1e-12))


@torch.inference_mode()
def compute_maps(backbone: Backbone) -> torch.Tensor:
    """Compute a trunk's maps of the pattern, in full precision: float32 (C, h, w) on the CPU."""
    device = next(backbone.parameters()).device
    maps: torch.Tensor = backbone(backbone.normalise(draw_pattern()).to(device))[0].float().cpu()
    return maps


def draw_pattern() -> NDArray[np.uint8]:
    """Draw the pattern, uint8 (96, 96, 3): curved stripes of all widths, others in each channel."""
    y, x, channel = np.ogrid[:PATTERN_SIDE, :PATTERN_SIDE, :3]
    return ((x * x + (channel + 1) * y * y // 2 + 7 * x * y // (channel + 3)) % 256).astype(
        np.uint8
    )
