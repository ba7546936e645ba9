"""NMS of all classes of a photograph against torchvision's, which has no limit of boxes.

    python benchmarks/nms.py --out results/benchmarks/nms.json

Windows and scores are random, about as many as a photograph has.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from timing import find_ratio, time_in_turns, write_result
from torchvision.ops import nms

from spp_detect.config import make_config
from spp_detect.kernels.nms import suppress


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=2056)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    config = make_config()
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 400, (arguments.windows, 2))
    sides = rng.integers(10, 250, (arguments.windows, 2))
    boxes = np.hstack([corners, corners + sides]).astype(np.float32)
    scores = rng.normal(-1, 0.3, (arguments.classes, arguments.windows)).astype(np.float32)
    boxes_too, scores_too = torch.from_numpy(boxes), torch.from_numpy(scores)
    best = scores_too.topk(4 * config.max_detections, dim=1).indices
    limits = config.score_threshold, config.nms_iou, config.max_detections
    seconds = time_in_turns(
        {
            "ours": lambda: [suppress(boxes, one, *limits) for one in scores],
            "torchvision": lambda: [nms(boxes_too, one, config.nms_iou) for one in scores_too],
            "torchvision, the best 400": lambda: [
                nms(boxes_too[rows], one[rows], config.nms_iou)
                for one, rows in zip(scores_too, best, strict=True)
            ],
        },
        arguments.rounds,
    )
    result = {
        "windows": arguments.windows,
        "classes": arguments.classes,
        "ratio": find_ratio(seconds, "torchvision", "ours"),
        "ratio_to_the_best_400": find_ratio(seconds, "torchvision, the best 400", "ours"),
        "seconds": seconds,
        "threads": torch.get_num_threads(),
    }
    write_result(arguments.out, result)
    print(
        f"NMS: {result['ratio']:.1f}× as fast as torchvision's on all windows, "
        f"{result['ratio_to_the_best_400']:.1f}× on the best {4 * config.max_detections}"
    )


if __name__ == "__main__":
    main()
