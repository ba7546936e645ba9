"""Networks as they run where nothing is learnt: batch norms folded, weights rounded once."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spp_detect.dtype import find_dtype, use_precision

ROUNDED = (nn.Conv2d, nn.Linear)  # what `use_precision` computes in half precision


class InferenceCopy:
    """A network for inference, made of its source when it is first called.

    Whoever changes the source's weights after that calls `refresh`.

    Parameters
    ----------
    source : nn.Module
        A trunk or fc layers, in evaluation mode whenever this is called.
    precision : str
        As the configuration's.
    """

    def __init__(self, source: nn.Module, precision: str) -> None:
        self.source = source
        self.precision = precision
        self._frozen: nn.Module | None = None

    def refresh(self) -> None:
        """Let go of what was made of the source's former weights."""
        self._frozen = None

    @torch.inference_mode()
    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """Compute what the source would, rounded otherwise."""
        if self._frozen is None:
            self._frozen = freeze(self.source, self.precision)
        if find_dtype(self.precision, values.device) == "float32":
            values = values.float()
        with use_precision(self.precision, values.device):
            computed: torch.Tensor = self._frozen(values)
        return computed


@torch.no_grad()
def freeze(source: nn.Module, precision: str) -> nn.Module:
    """Copy a network in evaluation mode, its batch norms folded and its weights rounded.

    A batch norm is folded into the convolution that is registered right before it, as all of
    torchvision's networks have them.
    """
    weights = next(source.parameters(), None)
    if weights is None:
        return source
    rounds = find_dtype(precision, weights.device) == "bfloat16"
    if not rounds and not any(isinstance(layer, nn.BatchNorm2d) for layer in source.modules()):
        return source
    frozen = copy.deepcopy(source).eval()
    for parent in list(frozen.modules()):
        for (before, conv), (name, norm) in pairwise(list(parent.named_children())):
            # A kind of its own may do more than normalise, as timm's with activations.
            if isinstance(conv, nn.Conv2d) and type(norm) is nn.BatchNorm2d:
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, name, nn.Identity())
    if rounds:
        for layer in frozen.modules():
            if isinstance(layer, ROUNDED):
                layer.to(torch.bfloat16)
    return frozen
