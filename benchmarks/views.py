"""96 views on feature maps beside 96 crops: seconds an image, and how often both agree.

    python benchmarks/views.py RUN DATA --out results/benchmarks/views.json

The crops of a scale go through the network in one batch. Both ways take turns over the same images.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timing import find_ratio, time_in_turns, write_result

from data import DataError
from spp_detect.classification.images import open_images
from spp_detect.classification.network import load_classifier
from spp_detect.classification.views import Viewer, average
from spp_detect.threads import get_threads

ON_MAPS, CROPPED = "96 views on 12 maps", "96 crops"
Photo = NDArray[np.uint8]


def look_on_maps(viewer: Viewer, photo: Photo) -> NDArray[np.float64]:
    """Score an image by 96 windows of the maps of twelve images."""
    return viewer.look(photo, "96-on-maps")


def look_at_crops(viewer: Viewer, photo: Photo) -> NDArray[np.float64]:
    """Score an image by 96 crops."""
    with torch.inference_mode():
        pooled = [viewer.pool_crops(photo, side) for side in viewer.list_sides()]
        (mean,) = average(viewer.score([torch.cat(pooled)]))
    return mean


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="the .json to write")
    arguments = parser.parse_args()
    network = load_classifier(arguments.run)
    viewer = Viewer(network, torch.device("cpu"))
    images = open_images(arguments.data, arguments.split, network.classes)
    step = max(1, len(images) // arguments.images)
    some = images.choose(np.arange(0, len(images), step)[: arguments.images])
    photos = [image for image in some.read() if not isinstance(image, DataError)]

    def look_at_all(look: Any) -> NDArray[np.int64]:
        return np.stack([look(viewer, photo) for photo in photos]).argmax(axis=1)

    ways = {ON_MAPS: look_on_maps, CROPPED: look_at_crops}
    found = {name: look_at_all(look) for name, look in ways.items()}
    seconds = time_in_turns(
        {name: partial(look_at_all, look) for name, look in ways.items()}, arguments.rounds
    )
    result: dict[str, Any] = {
        "seconds_per_image": {
            name: float(np.median(each)) / len(photos) for name, each in seconds.items()
        },
        "times_as_fast": find_ratio(seconds, CROPPED, ON_MAPS),
        "agree": float((found[ON_MAPS] == found[CROPPED]).mean()),
        "rounds": seconds,
        "images": len(photos),
        "backbone": network.trunk.name,
        "size": network.config.size,
        "threads": get_threads(),
    }
    write_result(arguments.out, result)


if __name__ == "__main__":
    main()
