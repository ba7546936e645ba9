"""Trunks of timm, cut after the last layer whose map has stride 16: an extra, `timm:NAME`."""

from __future__ import annotations

import copy
from collections import OrderedDict
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from spp_detect.backbones.base import Backbone, InOrder, InputFormat
from spp_detect.config import TIMM, ConfigError
from spp_detect.projection import CellGrid

STRIDE = 16
# Pixels and cells on which a trunk's grid is measured: the cells lie around the middle.
SIDE, CELLS = 512, (13, 19)
MOST_OFF = 0.2  # of the measured stride, in pixels
# By what is in the names of their classes: norms, but no blocks that have one; gates by the mean
# of the whole photograph.
NORM, NO_NORM, GATES = "norm", "conv", ("squeeze", "semodule")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Linear)


def build_timm(name: str) -> Backbone:
    """Build a trunk of timm with fresh weights.

    Parameters
    ----------
    name : str
        As "timm:resnet18", or with the tag of its weights, "timm:resnet18.a1_in1k".

    Raises
    ------
    ConfigError
        For an unknown net, one without a map of stride 16, one whose cells have no place of their
        own, as those of attention over the whole photograph, and where timm is not installed.
    """
    net = create_net(name)
    (channels,) = net.feature_info.channels()
    layers = _list_layers(net)
    grid = measure_grid_by_gradient(layers, name)
    return Backbone(name, layers, channels, _find_pixels(name), grid)


def download_weights(name: str) -> dict[str, torch.Tensor]:
    """Let timm download a whole net's weights."""
    import timm

    state: dict[str, torch.Tensor] = timm.create_model(
        name.removeprefix(TIMM), pretrained=True
    ).state_dict()
    return state


def rename_weights(layers: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name the tensors of a whole net as its trunk does, as far as this has them.

    A net of features calls `stages_0` what is `stages.0` in the whole one.
    """
    by_name = {_flatten(name): values for name, values in state.items()}
    wanted = {name: _flatten(name.removeprefix("net.")) for name in layers.state_dict()}
    return {name: by_name[flat] for name, flat in wanted.items() if flat in by_name}


def _flatten(name: str) -> str:
    return name.replace(".", "_")


def create_net(name: str) -> Any:
    """Make timm's net of features, up to the last map of stride 16, with fresh weights."""
    if find_spec("timm") is None:
        raise ConfigError(
            f"backbone {name!r}: timm is not installed; expected the extra: "
            "pip install spp-detect[timm]"
        )
    import timm

    own = name.removeprefix(TIMM)
    if not timm.is_model(own):
        raise ConfigError(f"backbone {name!r}: timm has no such net; see timm.list_models()")
    try:
        every: Any = timm.create_model(own, pretrained=False, features_only=True)
        places = [i for i, one in enumerate(every.feature_info) if one["reduction"] == STRIDE]
        index = every.feature_info.out_indices[places[-1]]
        return timm.create_model(own, features_only=True, out_indices=(index,)).eval()
    except (IndexError, AttributeError, AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone {name!r}: expected a net with a map of stride 16") from error


def _find_pixels(name: str) -> InputFormat:
    import timm

    known: Any = timm.get_pretrained_cfg(name.removeprefix(TIMM))
    (r, g, b), (sr, sg, sb) = known.mean, known.std
    return InputFormat("rgb", (255 * r, 255 * g, 255 * b), (255 * sr, 255 * sg, 255 * sb))


class _Last(nn.Module):
    """A net of features as its last map, channels first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.turned = str(getattr(net, "output_fmt", "")).endswith("NHWC")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.net(x)[-1]
        return maps.permute(0, 3, 1, 2) if self.turned else maps


def _list_layers(net: Any) -> nn.Module:
    """Take a net of features apart where it is a sequence, so that its last layers can learn."""
    from timm.models import FeatureListNet

    if type(net) is FeatureListNet and str(net.output_fmt).endswith("NCHW"):
        return InOrder(OrderedDict(net.items())).eval()
    return _Last(net).eval()


def measure_grid_by_gradient(layers: nn.Module, name: str) -> CellGrid:
    """Measure where a map's cells lie: at the middle of the pixels that reach them.

    On a copy in which all weights are positive and alike, nothing is normalised or gated and maxima
    are means, the gradient of a cell says how much each pixel reaches it.

    Raises
    ------
    ConfigError
        For cells that do not lie 16 pixels from each other.
    """
    plain = _make_positive(copy.deepcopy(layers))
    # So small that no activation that is bounded comes to its end.
    pixels = torch.full((1, 3, SIDE, SIDE), 1e-3, requires_grad=True)
    try:
        maps = plain(pixels * 1)[0].sum(dim=0)  # a first layer may work in place
        middles = [_find_middle(maps[cell, cell], pixels) for cell in CELLS]
    except (RuntimeError, AssertionError, IndexError, ValueError) as error:
        reason = str(error).strip().splitlines() or ["it fails"]
        raise ConfigError(
            f"backbone {name!r}: expected a net for photographs of any size ({reason[0][:100]})"
        ) from error
    across = [[middle[axis] for middle in middles] for axis in (0, 1)]
    steps = [(last - first) / (CELLS[1] - CELLS[0]) for first, last in across]
    if not all(abs(step - STRIDE) <= MOST_OFF for step in steps):
        raise ConfigError(
            f"backbone {name!r}: its cells lie {min(steps):.3g} pixels apart; expected {STRIDE}, "
            "and that each sees a part of the photograph"
        )
    centres = [(sum(pair) - STRIDE * sum(CELLS)) / 2 for pair in across]
    rounded = [round(2 * centre) / 2 for centre in centres]
    if rounded[0] != rounded[1]:
        raise ConfigError(f"backbone {name!r}: expected one centre for both axes, not {rounded}")
    return CellGrid(STRIDE, rounded[0])


def _find_middle(cell: torch.Tensor, pixels: torch.Tensor) -> tuple[float, float]:
    (gradient,) = torch.autograd.grad(cell, pixels, retain_graph=True)
    weights = gradient[0].sum(dim=0).abs().double()
    places = torch.arange(SIDE, dtype=torch.float64)
    total = weights.sum()
    down, across = ((weights.sum(dim) * places).sum() / total for dim in (1, 0))
    return float(down), float(across)


@torch.no_grad()
def _make_positive(layers: nn.Module) -> nn.Module:
    """Make weights positive and alike, norms and gates nothing, and maxima means."""
    for parent in list(layers.modules()):
        for name, layer in list(parent.named_children()):
            kind = type(layer).__name__.lower()
            normalises = NORM in kind and NO_NORM not in kind
            if normalises or any(gate in kind for gate in GATES):
                setattr(parent, name, nn.Identity())
            elif isinstance(layer, nn.MaxPool2d):
                sizes = layer.kernel_size, layer.stride, layer.padding
                setattr(parent, name, nn.AvgPool2d(*sizes, ceil_mode=layer.ceil_mode))
    for layer in layers.modules():
        if isinstance(layer, CONVOLUTIONS):
            layer.weight.fill_(1 / layer.weight[0].numel())
            if layer.bias is not None:
                layer.bias.zero_()
    return layers.eval()
