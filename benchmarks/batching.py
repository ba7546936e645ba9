"""Photographs of one size through the trunk together against one after the other.

python benchmarks/batching.py --out results/benchmarks/batching.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from timing import find_ratio, time_in_turns, write_result

from spp_detect.backbones import build_backbone
from spp_detect.dtype import find_dtype
from spp_detect.features import choose_device
from spp_detect.inference_copy import InferenceCopy

SIZES = {"photographs of 500 × 375 at 688": (688, 917), "at 240": (240, 320)}
TOGETHER = 4


@torch.inference_mode()
def time_batch(network: InferenceCopy, photos: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Seconds for photographs (N, 3, H, W) on either way."""
    work = {
        "one by one": lambda: [network(photo) for photo in photos.split(1)],
        "together": lambda: network(photos),
    }
    return time_in_turns(work, rounds)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    device = choose_device("auto")
    backbone = build_backbone("resnet18").eval().to(device)
    network = InferenceCopy(backbone.to(memory_format=torch.channels_last), "auto")
    results = {}
    for name, size in SIZES.items():
        photos = torch.rand(TOGETHER, 3, *size, device=device)
        photos = photos.contiguous(memory_format=torch.channels_last)
        seconds = time_batch(network, photos, arguments.rounds)
        ratio = find_ratio(seconds, "one by one", "together")
        results[name] = {"ratio": ratio, "seconds": seconds}
        print(f"{name}: {TOGETHER} together {ratio:.2f}× as fast as one by one")
    numbers = {
        "together": TOGETHER,
        "sizes": results,
        "device": str(device),
        "precision": find_dtype("auto", device),
        "threads": torch.get_num_threads(),
    }
    write_result(arguments.out, numbers)


if __name__ == "__main__":
    main()
