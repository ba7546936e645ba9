"""Half precision: the format of products alone, the same whatever other threads do."""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import nn

from spp_detect.dtype import use_precision

CPU = torch.device("cpu")
USES = 60


def differentiate(layer: nn.Linear, inputs: list[torch.Tensor], between=lambda: None):
    """The gradient of one weight that is used several times in one context."""
    layer.zero_grad()
    outputs = []
    with use_precision("bfloat16", CPU):
        for one in inputs:
            outputs.append(layer(one))
            between()
    sum(output.float().square().sum() for output in outputs).backward()
    return layer.weight.grad.clone()


def make_inputs():
    torch.manual_seed(0)
    return nn.Linear(24, 8), [torch.randn(5, 24) for _ in range(USES)]


def test_gradients_of_several_uses_are_summed_in_float32():
    layer, inputs = make_inputs()
    alone = torch.stack([differentiate(layer, [one]) for one in inputs]).double()
    together = differentiate(layer, inputs).double()
    # Summed in bfloat16 the error would be a thousand times as large.
    error = (together - alone.sum(dim=0)).abs().max() / alone.abs().sum(dim=0).max()
    assert error < 1e-6


def test_another_thread_in_half_precision_changes_nothing():
    layer, inputs = make_inputs()
    before = differentiate(layer, inputs)

    def enter_and_leave() -> None:
        with use_precision("bfloat16", CPU):
            pass

    with ThreadPoolExecutor(1) as pool:
        after = differentiate(layer, inputs, lambda: pool.submit(enter_and_leave).result())
    assert torch.equal(before, after)
