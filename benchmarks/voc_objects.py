"""Table 2 of the paper on the labelled objects of VOC 2007: no pyramid, one size, several sizes.

Trains each variant with each seed on trainval's objects and tests it on test's; what is done is not
done again. The numbers, with their spread over the seeds, go into one file.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from spp_detect import progress
from spp_detect.classification.classify import classify, measure_errors
from spp_detect.classification.images import open_images
from spp_detect.classification.network import load_classifier
from spp_detect.classification.view_names import CROPPED
from spp_detect.classification.views import Viewer
from spp_detect.files import write_json
from spp_detect.provenance import record_run
from spp_detect.training.pretraining_run import PretrainingOptions, PretrainingRun
from spp_detect.training.team import Team

CPU = torch.device("cpu")
MEMORY = 8_000_000_000
MAX_SIDE = 10_000


def list_variants(sizes: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The three that the paper compares, by what is said of them."""
    return {
        "no pyramid": {"levels": [6], "sizes": [sizes[0]]},
        "one size": {"levels": [6, 3, 2, 1], "sizes": [sizes[0]]},
        "several sizes": {"levels": [6, 3, 2, 1], "sizes": list(sizes)},
    }


def measure_run(run: Path, voc: Path, split: str, views: list[str]) -> dict[str, float]:
    """Top-1 errors of a trained classifier by each way to look; what was measured stays."""
    path = run / f"errors_{split}.json"
    found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
    network = load_classifier(run)
    for name in views:
        if name in found or not (network.config.has_pyramid or name in CROPPED):
            continue
        images = open_images(voc, split, network.classes)
        scored = classify(Viewer(network, CPU), images, name, MAX_SIDE)
        tracked = progress.track(scored, f"{run.name}, {name}", len(images))
        found[name] = measure_errors(tracked, images)["top1_error"]
        write_json(path, found)
    return found


def summarise(errors: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and deviation over seeds of each way to look."""
    told = {}
    for name in errors[0]:
        each = [one[name] for one in errors if name in one]
        spread = statistics.stdev(each) if len(each) > 1 else float("nan")
        told[name] = {"mean": statistics.fmean(each), "deviation": spread, "seeds": each}
    return told


def main() -> None:
    """Train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voc", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="the .json to write")
    parser.add_argument("--train-split", default="trainval")
    parser.add_argument("--test-split", default="test")
    parser.add_argument("--backbone", default="zf5")
    parser.add_argument("--sizes", default="112,90")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--fc-width", type=int, default=4096)
    parser.add_argument("--start", default="normed")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--views", default="centre,ten-on-maps,full", help="of each seed")
    parser.add_argument("--more-views", default="ten,96-on-maps,all", help="of the first seed")
    arguments = parser.parse_args()
    sizes = tuple(int(size) for size in arguments.sizes.split(","))
    usual = {
        "backbone": arguments.backbone,
        "epochs": arguments.epochs,
        "fc_width": arguments.fc_width,
        "rate": arguments.rate,
        "start": arguments.start,
    }
    errors: dict[str, list[dict[str, float]]] = {}
    with progress.show():
        seeds = [int(seed) for seed in arguments.seeds.split(",")]
        for seed in seeds:
            views = arguments.views.split(",")
            views += arguments.more_views.split(",") if seed == seeds[0] else []
            for name, own in list_variants(sizes).items():
                run = arguments.work / f"{name.replace(' ', '_')}_{seed}"
                run.mkdir(parents=True, exist_ok=True)
                settings = usual | own | {"seed": seed}
                asked = PretrainingOptions(str(arguments.voc), arguments.train_split, settings)
                PretrainingRun(run, asked, Team(device=CPU), MEMORY, MAX_SIDE).train()
                measured = measure_run(run, arguments.voc, arguments.test_split, views)
                errors.setdefault(name, []).append(measured)
                told = {one: summarise(each) for one, each in errors.items()}
                asked_for = {key: str(value) for key, value in vars(arguments).items()}
                numbers = {"top1_error": told, "settings": asked_for, "record": record_run()}
                write_json(arguments.out, numbers)


if __name__ == "__main__":
    main()
