"""Table 2 of the paper on the labelled objects of VOC 2007: no pyramid, one size, several sizes.

Trains each variant with each seed on trainval's objects and tests it on test's. The numbers, with
their spread over the seeds, go into one file; a seed that it has already is not done again.
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
from spp_detect.classification.view_names import CROPPED, VIEW_NAMES
from spp_detect.classification.views import Viewer
from spp_detect.dtype import find_dtype
from spp_detect.files import write_json
from spp_detect.provenance import record_run
from spp_detect.training.pretraining_run import PretrainingOptions, PretrainingRun
from spp_detect.training.team import Team

CPU = torch.device("cpu")
MEMORY = 8_000_000_000
SAME = (
    "voc",
    "train_split",
    "test_split",
    "backbone",
    "sizes",
    "epochs",
    "fc_width",
    "start",
    "rate",
)
Errors = dict[str, float]  # by the way to look
MAX_SIDE = 10_000


def list_variants(sizes: tuple[int, ...]) -> dict[str, dict[str, Any]]:
    """The three that the paper compares, by what is said of them."""
    return {
        "no pyramid": {"levels": [6], "sizes": [sizes[0]]},
        "one size": {"levels": [6, 3, 2, 1], "sizes": [sizes[0]]},
        "several sizes": {"levels": [6, 3, 2, 1], "sizes": list(sizes)},
    }


def measure_view(run: Path, voc: Path, split: str, views: str) -> float:
    """Top-1 error of a trained classifier by one way to look."""
    network = load_classifier(run)
    images = open_images(voc, split, network.classes)
    scored = classify(Viewer(network, CPU), images, views, MAX_SIDE)
    tracked = progress.track(scored, f"{run.name}, {views}", len(images))
    error: float = measure_errors(tracked, images)["top1_error"]
    return error


def summarise(by_seed: dict[str, Errors]) -> dict[str, Any]:
    """Mean and deviation over seeds of each way to look."""
    told: dict[str, Any] = {}
    for name in dict.fromkeys(view for one in by_seed.values() for view in one):
        each = [one[name] for one in by_seed.values() if name in one]
        spread = statistics.stdev(each) if len(each) > 1 else float("nan")
        told[name] = {"mean": statistics.fmean(each), "deviation": spread, "seeds": len(each)}
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
    parser.add_argument(
        "--views", default=",".join(VIEW_NAMES), help="of the first seed; the centre view of others"
    )
    arguments = parser.parse_args()
    sizes = tuple(int(size) for size in arguments.sizes.split(","))
    usual = {
        "backbone": arguments.backbone,
        "epochs": arguments.epochs,
        "fc_width": arguments.fc_width,
        "rate": arguments.rate,
        "start": arguments.start,
    }
    asked_for = {key: str(value) for key, value in vars(arguments).items()}
    same = {key: asked_for[key] for key in SAME} | {"precision": find_dtype("auto", CPU)}
    told: dict[str, Any] = {"by_seed": {}, "settings": same}
    if arguments.out.is_file():
        told = json.loads(arguments.out.read_text())
        if told.get("settings") != same:
            raise SystemExit(f"{arguments.out}: made with {told.get('settings')}; expected {same}")
    seeds = arguments.seeds.split(",")
    with progress.show():
        for seed in seeds:
            asked_views = arguments.views.split(",") if seed == seeds[0] else ["centre"]
            for name, own in list_variants(sizes).items():
                views = [v for v in asked_views if name != "no pyramid" or v in CROPPED]
                errors: Errors = told["by_seed"].setdefault(name, {}).setdefault(seed, {})
                left = [view for view in views if view not in errors]
                if not left:
                    continue
                run = arguments.work / f"{name.replace(' ', '_')}_{seed}"
                run.mkdir(parents=True, exist_ok=True)
                settings = usual | own | {"seed": int(seed)}
                asked = PretrainingOptions(str(arguments.voc), arguments.train_split, settings)
                PretrainingRun(run, asked, Team(device=CPU), MEMORY).train()
                for view in left:
                    errors[view] = measure_view(run, arguments.voc, arguments.test_split, view)
                    told["top1_error"] = {one: summarise(e) for one, e in told["by_seed"].items()}
                    write_json(arguments.out, told | {"record": record_run()})


if __name__ == "__main__":
    main()
