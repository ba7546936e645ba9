"""The fc layers between the pyramid and the SVMs (paper, section 4.1)."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from spp_detect.config import Config
from spp_detect.inference_copy import InferenceCopy

DROPOUT = 0.5
BESIDE_STD = 0.001  # of the other levels' weights, beside an fc6 that starts from a trained one


class FcLayers(nn.Module):
    """fc6, or fc6 and fc7, each with ReLU and dropout; fresh weights as He et al. 2015.

    Parameters
    ----------
    inputs : int
        D, the values of a pooled window.
    width : int
        Values of a layer.
    depth : int
        1 for fc6 alone, 2 for fc6 and fc7; 0 for neither: pooled features go through, in training
        with dropout.
    rank : int
        Of fc6, which is then two products; 0 where it is one.

    Attributes
    ----------
    length : int
        Values that come out.
    """

    def __init__(self, inputs: int, width: int, depth: int, rank: int = 0) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if not depth:
            layers["drop5"] = nn.Dropout(DROPOUT)
        for i in range(depth):
            layer = nn.Linear(width if i else inputs, width)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            layers[f"fc{6 + i}"] = layer
            if rank and not i:
                halves = nn.Linear(inputs, rank, bias=False), nn.Linear(rank, width)
                layers["fc6"] = nn.Sequential(*halves)
            layers[f"relu{6 + i}"] = nn.ReLU(inplace=True)
            layers[f"drop{6 + i}"] = nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(layers)
        self.inputs = inputs
        self.length = width if depth else inputs
        self._copy: InferenceCopy | None = None

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Turn pooled features, float (N, D), into (N, length)."""
        described: torch.Tensor = self.layers(pooled)
        return described

    @property
    def first(self) -> nn.Linear:
        """fc6, where it is one product."""
        layer = self.layers[0]
        assert isinstance(layer, nn.Linear)
        return layer

    @torch.inference_mode()
    def infer(self, pooled: torch.Tensor, precision: str) -> torch.Tensor:
        """Turn pooled features into what the SVMs take: float32 (N, length)."""
        if self._copy is None or self._copy.precision != precision:
            self._copy = InferenceCopy(self.layers, precision)
        return self._copy(pooled).float()

    def refresh(self) -> None:
        """Let `infer` follow the layers, whose weights have changed."""
        self._copy = None

    def cut(self, depth: int) -> FcLayers:
        """The first `depth` of the layers, which are shared."""
        shorter = FcLayers(self.inputs, self.length, 0)
        shorter.layers = self.layers[: 3 * depth]
        shorter.length = self.length
        return shorter

    @torch.no_grad()
    def factorise(self, rank: int) -> FcLayers:
        """Copy the layers with fc6 as the product of two, by a truncated SVD of its weights.

        The best approximation of that rank (Girshick, Fast R-CNN, ICCV 2015, section 3.1).
        """
        depth = len(self.layers) // 3
        fc6 = self.layers[0]
        assert isinstance(fc6, nn.Linear)
        shorter = FcLayers(fc6.in_features, self.length, depth, rank).to(fc6.weight.device).eval()
        left, values, right = torch.linalg.svd(fc6.weight, full_matrices=False)
        state = {
            "0.weight": values[:rank, None] * right[:rank],
            "1.weight": left[:, :rank],
            "1.bias": fc6.bias,
        }
        shorter.layers[0].load_state_dict(state)
        shorter.layers[3:].load_state_dict(self.layers[3:].state_dict())
        return shorter

    @torch.no_grad()
    def restrict(self, vectors: torch.Tensor, mean: torch.Tensor) -> FcLayers:
        """Copy the layers for inputs that are given by their components alone.

        What the copy makes of x's components is what these layers make of x without what lies
        outside the components' space.

        Parameters
        ----------
        vectors : float32 (K, D)
            Orthonormal.
        mean : float32 (D,)
            Subtracted before the components are taken.
        """
        fc6 = self.layers[0]
        assert isinstance(fc6, nn.Linear)
        copy = FcLayers(len(vectors), self.length, len(self.layers) // 3).to(fc6.weight.device)
        fc6_weights = {"weight": fc6.weight @ vectors.T, "bias": fc6.bias + fc6.weight @ mean}
        copy.layers[0].load_state_dict(fc6_weights)
        copy.layers[3:].load_state_dict(self.layers[3:].state_dict())
        return copy

    @torch.no_grad()
    def extend(self, copy: FcLayers, vectors: torch.Tensor, mean: torch.Tensor) -> None:
        """Take over a copy that `restrict` made and that has learnt since, for inputs as they are.

        fc6 is then of rank K: what lies outside the components' space does not count.
        """
        fc6, learnt = self.layers[0], copy.layers[0]
        assert isinstance(fc6, nn.Linear)
        assert isinstance(learnt, nn.Linear)
        fc6.weight.copy_(learnt.weight @ vectors)
        fc6.bias.copy_(learnt.bias - fc6.weight @ mean)
        self.layers[3:].load_state_dict(copy.layers[3:].state_dict())
        self.refresh()

    @torch.no_grad()
    def start_from_components(
        self, components: torch.Tensor, mean: torch.Tensor, scale: float
    ) -> None:
        """Start with layers that lose little: principal components and their negatives, kept.

        fc6 gives the positive and the negative part of each component, fc7 starts as the identity;
        so an SVM on either sees nearly what one on pooled features sees, and fine-tuning goes on
        from there. (Initialisation from data: Krähenbühl et al., ICLR 2016.) Units for which there
        is no component keep their random weights.

        Parameters
        ----------
        components : float32 (K, D)
            Orthonormal, K at most half the width.
        mean : float32 (D,)
            Of pooled features.
        scale : float
            Factor on the components.
        """
        fc6, fc7 = self.layers[0], self.layers[3]
        assert isinstance(fc6, nn.Linear)
        assert isinstance(fc7, nn.Linear)
        both = torch.cat([components, -components]) * scale
        fc6.weight[: len(both)] = both
        fc6.bias[: len(both)] = -both @ mean
        nn.init.eye_(fc7.weight)

    @torch.no_grad()
    def start_from(
        self, trained: dict[str, torch.Tensor], channels: int, levels: tuple[int, ...]
    ) -> bool:
        """Start from a net's own fc6 and fc7, whose fc6 took an n × n map of `channels`.

        Its weights become those of the pyramid's n × n level; the other levels' start small. Where
        fc6 took as many values as here, its net had the same pyramid, and all weights are taken.

        Parameters
        ----------
        trained : dict of str to torch.Tensor
            "fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias".
        channels : int
            Of the trunk's map.
        levels : tuple of int
            Of the pyramid.

        Returns
        -------
        bool
            Whether they fit: the pyramid has such a level, and the layers are as wide.
        """
        fc6, fc7 = self.layers[0], self.layers[3]
        assert isinstance(fc6, nn.Linear)
        assert isinstance(fc7, nn.Linear)
        columns = trained["fc6.weight"].shape[1]
        side = round((columns / channels) ** 0.5)
        same = trained["fc6.weight"].shape == fc6.weight.shape
        if not same and (side not in levels or side * side * channels != columns):
            return False
        if trained["fc7.weight"].shape != fc7.weight.shape:
            return False
        if same:
            fc6.weight.copy_(trained["fc6.weight"])
            fc6.bias.copy_(trained["fc6.bias"])
            fc7.weight.copy_(trained["fc7.weight"])
            fc7.bias.copy_(trained["fc7.bias"])
            return True
        first = channels * sum(n * n for n in levels[: levels.index(side)])
        nn.init.normal_(fc6.weight, std=BESIDE_STD)
        fc6.weight[:, first : first + columns] = trained["fc6.weight"]
        fc6.bias.copy_(trained["fc6.bias"])
        fc7.weight.copy_(trained["fc7.weight"])
        fc7.bias.copy_(trained["fc7.bias"])
        return True


def apply_fc(fc: FcLayers | None, pooled: torch.Tensor, precision: str) -> torch.Tensor:
    """Turn pooled features, (U, D), into what the SVMs take: themselves where there is no fc."""
    return pooled if fc is None else fc.infer(pooled, precision)


FC_DEPTH = {"pool5": 0, "fc6": 1, "fc7": 2}


def build_fc(config: Config, inputs: int) -> FcLayers | None:
    """Build the layers up to the configuration's feature; None for pool5."""
    depth = FC_DEPTH[config.feature]
    return FcLayers(inputs, config.fc_width, depth, config.fc_rank) if depth else None
