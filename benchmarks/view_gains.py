"""Top-1 error of classifiers by each way to look, on the same images, and what it gains.

    python benchmarks/view_gains.py DATA RUN ... --out results/classification/view_gains.json

The standard error of a gain is of its pairs: both ways see the same images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from spread_images import open_spread
from timing import write_result

from data import DEFAULT_MAX_SIDE
from spp_detect import progress
from spp_detect.classification.classify import classify
from spp_detect.classification.images import Images
from spp_detect.classification.network import load_classifier
from spp_detect.classification.view_names import CROPPED, VIEW_NAMES
from spp_detect.classification.views import Viewer


def find_errors(viewer: Viewer, images: Images, views: str, name: str) -> NDArray[np.float64]:
    """1 for each image that is named wrongly, 0 for one named rightly, NaN for one not read."""
    wrong = np.full(len(images), np.nan)
    scored = classify(viewer, images, views, DEFAULT_MAX_SIDE)
    for i, probabilities in progress.track(scored, f"{name}, {views}", len(images)):
        wrong[i] = probabilities.argmax() != images.labels[i]
    return wrong


def measure_run(run: Path, images: Images, ways: list[str]) -> dict[str, Any]:
    """Measure a classifier's error by each way to look, and what it gains over the centre view."""
    network = load_classifier(run)
    viewer = Viewer(network, torch.device("cpu"))
    names = ways if network.config.has_pyramid else [way for way in ways if way in CROPPED]
    wrong = {views: find_errors(viewer, images, views, run.name) for views in names}
    told: dict[str, Any] = {}
    for views, each in wrong.items():
        gain = wrong["centre"] - each
        gain = gain[~np.isnan(gain)]
        told[views] = {
            "top1_error": float(np.nanmean(each)),
            "gain": float(gain.mean()),
            "standard_error": float(gain.std(ddof=1) / np.sqrt(len(gain))),
        }
    return {"sizes": list(network.config.sizes), "levels": list(network.config.levels), **told}


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=1500, help="evenly spread over the split's")
    parser.add_argument("--views", default=",".join(VIEW_NAMES), help="the centre among them")
    parser.add_argument("--out", type=Path, required=True, help="the .json to write")
    arguments = parser.parse_args()
    some = open_spread(arguments.data, arguments.split, arguments.runs, arguments.images)
    ways = arguments.views.split(",")
    with progress.show():
        told = [{"run": run.name} | measure_run(run, some, ways) for run in arguments.runs]
    write_result(arguments.out, {"runs": told, "split": arguments.split, "images": len(some)})


if __name__ == "__main__":
    main()
