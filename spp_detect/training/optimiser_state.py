"""An optimiser's state among the tensors by which an interrupted training goes on."""

from __future__ import annotations

import torch

PREFIX = "optimiser"


def name_state(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Give an optimiser's state as tensors with names of their own."""
    return {
        f"{PREFIX}.{i}.{name}": value
        for i, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def take_up_state(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Let an optimiser go on from what `name_state` gave; other tensors are passed over."""
    state = optimiser.state_dict()
    learnt = [one for group in optimiser.param_groups for one in group["params"]]
    for name, value in tensors.items():
        if name.startswith(f"{PREFIX}."):
            _, i, what = name.split(".")
            if value.dim():  # in the weights' own order in memory: a fused step relies on it
                value = torch.empty_like(learnt[int(i)]).copy_(value)
            state["state"].setdefault(int(i), {})[what] = value
    optimiser.load_state_dict(state)
