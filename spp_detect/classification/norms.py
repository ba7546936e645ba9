"""Batch norms that a network has while it learns, and that are folded away afterwards."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval


class NormedLayer(nn.Module):
    """A convolution or a linear layer, and a batch norm of what it gives."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        self.layer = layer
        is_map = isinstance(layer, nn.Conv2d)
        self.norm = (nn.BatchNorm2d if is_map else nn.BatchNorm1d)(layer.weight.shape[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the layer, then the norm."""
        normed: torch.Tensor = self.norm(self.layer(x))
        return normed

    def fold(self) -> nn.Module:
        """Make the one layer that computes both, with the statistics as they are."""
        layer, norm = self.layer.eval(), self.norm.eval()
        if isinstance(layer, nn.Conv2d):
            return fuse_conv_bn_eval(layer, norm)
        assert isinstance(layer, nn.Linear)
        return fuse_linear_bn_eval(layer, norm)


def add_norms(network: nn.Module) -> None:
    """Put a batch norm after each convolution and linear layer; their weights start anew."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                setattr(parent, name, NormedLayer(layer))


@torch.no_grad()
def fold_norms(network: nn.Module) -> None:
    """Fold the norms that `add_norms` put into a network."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, NormedLayer):
                setattr(parent, name, layer.fold())
