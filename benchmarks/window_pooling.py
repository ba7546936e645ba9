"""Window pooling against four calls of torchvision's roi_pool, forward and with the gradient.

    python benchmarks/window_pooling.py --out results/benchmarks/window_pooling.json

Windows are random on a map of the size that a 500 × 375 photograph has at 688. The two round bins
otherwise, so the results differ; the work is the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from timing import find_ratio, time_in_turns, write_result
from torchvision.ops import roi_pool

from spp_detect.features import choose_device
from spp_detect.kernels import pool_windows
from spp_detect.pyramid import DEFAULT_LEVELS


def make_windows(count: int, height: int, width: int) -> torch.Tensor:
    """Random cells, int32 (N, 4) left, top, right, bottom, inclusive."""
    random = np.random.default_rng(0)
    x = np.sort(random.integers(0, width, (count, 2)), axis=1)
    y = np.sort(random.integers(0, height, (count, 2)), axis=1)
    return torch.from_numpy(np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1).astype(np.int32))


def pool_by_torchvision(one_map: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Four calls, a level each, on a map (C, H, W)."""
    boxes = torch.cat([cells.new_zeros(len(cells), 1), cells], dim=1).float()
    levels = [roi_pool(one_map[None], boxes, n).flatten(1) for n in DEFAULT_LEVELS]
    return torch.cat(levels, dim=1)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    channels, height, width = 256, 43, 58
    device = choose_device("auto")
    theirs = torch.rand(channels, height, width, device=device)
    ours = theirs.permute(1, 2, 0).contiguous()
    halves = ours.bfloat16()
    cells = make_windows(arguments.windows, height, width).to(device)
    few = cells[:128]  # a batch of fine-tuning
    length = channels * sum(n * n for n in DEFAULT_LEVELS)
    learning, learning_too = ours.clone().requires_grad_(), theirs.clone().requires_grad_()
    learning_halves = halves.clone().requires_grad_()
    result = torch.rand(len(cells), length, device=device)  # and its gradient
    result_halves = result.bfloat16()
    target = torch.empty_like(result)
    seconds = time_in_turns(
        {
            "ours": lambda: pool_windows(ours, cells, DEFAULT_LEVELS),
            "ours in bfloat16": lambda: pool_windows(halves, cells, DEFAULT_LEVELS),
            "roi_pool": lambda: pool_by_torchvision(theirs, cells),
            "ours with gradient": lambda: pool_windows(learning, cells, DEFAULT_LEVELS).backward(
                result
            ),
            "ours in bfloat16 with gradient": lambda: pool_windows(
                learning_halves, cells, DEFAULT_LEVELS
            ).backward(result_halves),
            "roi_pool with gradient": lambda: pool_by_torchvision(learning_too, cells).backward(
                result
            ),
            "ours with gradient, a batch": lambda: pool_windows(
                learning, few, DEFAULT_LEVELS
            ).backward(result[: len(few)]),
            "roi_pool with gradient, a batch": lambda: pool_by_torchvision(
                learning_too, few
            ).backward(result[: len(few)]),
            "copy of the result": lambda: target.copy_(result),
        },
        arguments.rounds,
    )
    # A copy reads and writes; pooling reads the map once and writes the result once.
    bandwidth = 2 * result.nbytes / float(np.median(seconds["copy of the result"]))
    moved = (ours.nbytes + result.nbytes) / float(np.median(seconds["ours"]))
    numbers = {
        "windows": len(cells),
        "windows_of_a_batch": len(few),
        "map": [height, width, channels],
        "device": str(device),
        "ratio": find_ratio(seconds, "roi_pool", "ours"),
        "ratio_in_bfloat16": find_ratio(seconds, "roi_pool", "ours in bfloat16"),
        "ratio_with_gradient": find_ratio(seconds, "roi_pool with gradient", "ours with gradient"),
        "ratio_in_bfloat16_with_gradient": find_ratio(
            seconds, "roi_pool with gradient", "ours in bfloat16 with gradient"
        ),
        "ratio_with_gradient_of_a_batch": find_ratio(
            seconds, "roi_pool with gradient, a batch", "ours with gradient, a batch"
        ),
        "copy_gb_per_second": bandwidth / 1e9,
        "share_of_copy_bandwidth": moved / bandwidth,
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    write_result(arguments.out, numbers)
    print(
        f"pooling: {numbers['ratio']:.1f}× as fast as roi_pool, "
        f"{numbers['ratio_in_bfloat16']:.1f}× in bfloat16, "
        f"{numbers['ratio_with_gradient']:.1f}× with the gradient "
        f"({numbers['ratio_in_bfloat16_with_gradient']:.1f}× in bfloat16, "
        f"{numbers['ratio_with_gradient_of_a_batch']:.1f}× for {len(few)} windows), "
        f"{numbers['share_of_copy_bandwidth']:.0%} of the bandwidth of a copy"
    )


if __name__ == "__main__":
    main()
