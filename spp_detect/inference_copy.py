"""Networks as they run where nothing is learnt: batch norms folded, weights rounded once."""

from __future__ import annotations

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from spp_detect.dtype import find_dtype, use_precision

ROUNDED = (nn.Conv2d, nn.Linear)  # what `use_precision` computes in half precision


class FrozenNetwork(nn.Module):
    """A network for inference: it follows its source, whose weights may go on to change.

    It sees changes that torch counts: not those of a fused optimiser, whose user must count them.

    Parameters
    ----------
    source : a trunk or fc layers, in evaluation mode whenever this is called.
    precision : as the configuration's.
    """

    def __init__(self, source: nn.Module, precision: str) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple, so that its weights are not this module's, too
        self.precision = precision
        self._versions: list[tuple[int, int, int]] = []

    @torch.inference_mode()
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute what the source would, rounded otherwise."""
        (source,) = self._source
        tensors = (*source.parameters(), *source.buffers())
        versions = [(id(one), one.data_ptr(), one._version) for one in tensors]
        if versions != self._versions:
            self._frozen = (freeze(source, self.precision),)
            self._versions = versions
        if find_dtype(self.precision, values.device) == "float32":
            values = values.float()
        with use_precision(self.precision, values.device):
            computed: torch.Tensor = self._frozen[0](values)
        return computed


@torch.no_grad()
def freeze(source: nn.Module, precision: str) -> nn.Module:
    """Copy a network in evaluation mode, its batch norms folded and its weights rounded.

    A batch norm is folded into the convolution that is registered right before it, as all of
    torchvision's networks have them.
    """
    device = next(source.parameters()).device
    rounds = find_dtype(precision, device) == "bfloat16"
    if not rounds and not any(isinstance(layer, nn.BatchNorm2d) for layer in source.modules()):
        return source
    frozen = copy.deepcopy(source).eval()
    for parent in list(frozen.modules()):
        for (before, conv), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, before, fuse_conv_bn_eval(conv, norm))
                setattr(parent, name, nn.Identity())
    if rounds:
        for layer in frozen.modules():
            if isinstance(layer, ROUNDED):
                layer.to(torch.bfloat16)
    return frozen
