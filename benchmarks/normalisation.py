"""ZF-5 with its local response normalisation against the same stack without it.

python benchmarks/normalisation.py --out results/benchmarks/normalisation.json
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from timing import find_ratio, time_in_turns, write_result
from torch import nn

from spp_detect.backbones import build_backbone
from spp_detect.kernels.norm import normalise_with_torch


class PlainNorm(nn.Module):
    """The normalisation by torch's own operations."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise maps (N, C, H, W)."""
        return normalise_with_torch(x)


def replace_norms(layers: nn.Module, norm: nn.Module) -> nn.Module:
    """A copy of ZF-5's layers with other normalisations."""
    copied = copy.deepcopy(layers)
    copied.norm1, copied.norm2 = norm, norm
    return copied


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    layers = build_backbone("zf5").eval().to(memory_format=torch.channels_last).layers
    stacks = {
        "ours": layers,
        "torch's operations": replace_norms(layers, PlainNorm()),
        "none": replace_norms(layers, nn.Identity()),
    }
    pixels = torch.rand(1, 3, 688, 917).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        work = {name: (lambda stack=stack: stack(pixels)) for name, stack in stacks.items()}
        seconds = time_in_turns(work, arguments.rounds)
    result = {
        "ratio_to_none": find_ratio(seconds, "ours", "none"),
        "ratio_of_torch_to_none": find_ratio(seconds, "torch's operations", "none"),
        "seconds": seconds,
        "size": [917, 688],
        "threads": torch.get_num_threads(),
    }
    write_result(arguments.out, result)
    print(
        f"ZF-5: {result['ratio_to_none']:.2f}× the time without normalisation, "
        f"{result['ratio_of_torch_to_none']:.2f}× by torch's operations"
    )


if __name__ == "__main__":
    main()
