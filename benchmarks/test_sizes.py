"""Top-1 error of classifiers over the size of the whole image that they look at.

    python benchmarks/test_sizes.py DATA RUN ... --out results/classification/test_sizes.json

Each image and its mirror image go through the network as they are, of any shape, at each of the
short sides. The classifiers' curves are drawn beside the numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from spread_images import open_spread
from timing import write_result

from data import DataError
from spp_detect import progress
from spp_detect.classification.classify import measure_errors
from spp_detect.classification.images import Images
from spp_detect.classification.network import load_classifier
from spp_detect.classification.views import Viewer, average
from spp_detect.files import replace_file

SIDES = (64, 80, 90, 100, 112, 128, 160, 200, 256, 360, 500, 1000)


def score_at(
    viewer: Viewer, images: Images, side: int
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Score whole images at a short side in pixels."""
    for i, image in enumerate(images.read()):
        if not isinstance(image, DataError):
            with torch.inference_mode():
                pooled = viewer.pool_full(image, side)
            yield i, average(viewer.score([pooled]))[0]


def measure_run(run: Path, images: Images) -> dict[str, Any]:
    """Measure a classifier's error at each side."""
    network = load_classifier(run)
    if not network.config.has_pyramid:
        raise SystemExit(f"{run}: expected a classifier with a pyramid")
    viewer = Viewer(network, torch.device("cpu"))
    errors = []
    for side in SIDES:
        scored = score_at(viewer, images, side)
        tracked = progress.track(scored, f"{run.name}, {side}", len(images))
        numbers = measure_errors(tracked, images)
        errors.append(numbers["top1_error"])
    sizes = list(network.config.sizes)
    return {"sizes": sizes, "sides": SIDES, "top1_error": errors, "images": numbers["images"]}


def draw(told: list[dict[str, Any]], path: Path) -> None:
    """Draw error over side."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    panel = figure.add_subplot()
    for one in told:
        sizes = " and ".join(map(str, one["sizes"]))
        errors = [100 * error for error in one["top1_error"]]
        panel.plot(one["sides"], errors, marker="o", markersize=3, label=f"trained at {sizes}")
    panel.set_xscale("log")
    panel.set_xticks(SIDES, [str(side) for side in SIDES], fontsize=7)
    panel.minorticks_off()
    panel.set_xlabel("short side of the whole image, pixels")
    panel.set_ylabel("top-1 error, percent")
    panel.grid(alpha=0.3)
    panel.legend()
    with replace_file(path) as temporary:
        FigureCanvasAgg(figure).print_png(str(temporary))


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--split", default="test")
    parser.add_argument("--images", type=int, default=500, help="evenly spread over the split's")
    parser.add_argument("--out", type=Path, required=True, help="the .json; a .png beside it")
    arguments = parser.parse_args()
    some = open_spread(arguments.data, arguments.split, arguments.runs, arguments.images)
    with progress.show():
        told = [{"run": run.name} | measure_run(run, some) for run in arguments.runs]
    write_result(arguments.out, {"runs": told, "split": arguments.split})
    draw(told, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
