"""What one might pick instead: torchvision's Faster R-CNN on the same trunk, by training time.

    python benchmarks/alternatives.py ../shared/voc2007-mini/VOCdevkit/VOC2007 WEIGHTS \
        --work runs/alternatives --out results/benchmarks/alternatives.json

Faster R-CNN starts from the same ImageNet weights, its other layers at random, and is trained for
a number of minutes, with the schedule of its rate made for them. Its rate is chosen on val after
training on train, then it is trained on trainval and measured on test, once. Ours trains on
trainval for as long as it takes. What is measured is kept in --work, and a run begun again goes on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from timing import write_result
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from data import LabelledSet, open_dataset, read_photo
from eval import Detections
from spp_detect import Detector
from spp_detect.backbones import build_backbone, load_weights
from spp_detect.dtype import use_precision
from spp_detect.evaluation import measure
from spp_detect.files import write_json
from spp_detect.threads import set_threads

MINUTES = (4, 15, 60)
RATES = (0.0025, 0.005, 0.01)  # for batches of two photographs
SEARCH_MINUTES = (4, 15)  # the longest training takes the rate that is best for the one before
BATCH = 2
WARMING, FALLING = 0.05, 0.75  # shares of the time: the rate rises until, and falls to a tenth at
OURS = {
    "one scale of 480": ["--scales", "480"],
    "one scale of 688, the default": [],
    "five scales": ["--scales", "480,576,688,864,1200"],
}
CPU = torch.device("cpu")


class Trunk(nn.Module):
    """The same trunk for Faster R-CNN: batch norms as they are, the first layers frozen."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        backbone = build_backbone("resnet18")
        load_weights(backbone, weights)
        self.layers = backbone.layers
        self.out_channels = backbone.channels
        # As torchvision's own detectors on pretrained trunks: from layer 2 on convolutions learn.
        self.layers.requires_grad_(False)
        for name, layer in self.layers.named_modules():
            if name.startswith(("layer2", "layer3")) and isinstance(layer, nn.Conv2d):
                layer.requires_grad_(True)

    def train(self, mode: bool = True) -> Trunk:
        """Stay in evaluation mode, so that batch norms are constants."""
        return super().train(False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Compute maps of stride 16."""
        maps: torch.Tensor = self.layers(pixels)
        return maps


def make_faster_rcnn(weights: str, classes: int) -> FasterRCNN:
    """Build Faster R-CNN with a head of two fc layers, the sizes of the original on VOC."""
    model = FasterRCNN(
        Trunk(weights),
        num_classes=classes + 1,
        min_size=600,
        max_size=1000,
        rpn_anchor_generator=AnchorGenerator(((64, 128, 256, 512),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=7, sampling_ratio=2),
        box_score_thresh=0.01,
        box_nms_thresh=0.3,
    )
    return model.to(memory_format=torch.channels_last)


def read_example(
    dataset: LabelledSet, index: int, mirrored: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """A photograph, float32 (3, H, W) from 0 to 1, and its boxes that are not difficult."""
    photograph = dataset.photographs[index]
    photo = read_photo(photograph.path)
    boxes = photograph.labels.easy.boxes.copy()
    if mirrored:
        photo = np.ascontiguousarray(photo[:, ::-1])
        boxes[:, [0, 2]] = photo.shape[1] - boxes[:, [2, 0]]
    labels = torch.from_numpy(photograph.labels.easy.classes) + 1
    pixels = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    return pixels, {"boxes": torch.from_numpy(boxes), "labels": labels}


def find_rate(peak: float, share: float) -> float:
    """The rate when a share of the time has gone."""
    return peak * min(1.0, share / WARMING) * (1.0 if share < FALLING else 0.1)


def train_for(model: FasterRCNN, dataset: LabelledSet, minutes: float, peak: float) -> int:
    """Train for a number of minutes, all counted; returns the number of photographs seen."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    labelled = [i for i, one in enumerate(dataset) if len(one.labels.easy)]
    parameters = [one for one in model.parameters() if one.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=peak, momentum=0.9, weight_decay=5e-4)
    model.train()
    start, queue, seen = time.perf_counter(), [], 0
    while (share := (time.perf_counter() - start) / (60 * minutes)) < 1:
        if len(queue) < BATCH:
            queue += random.permutation(labelled).tolist()
        batch = [
            read_example(dataset, queue.pop(0), bool(random.random() < 0.5)) for _ in range(BATCH)
        ]
        for group in optimiser.param_groups:
            group["lr"] = find_rate(peak, share)
        pixels, targets = zip(*batch, strict=True)
        with use_precision("auto", CPU):
            losses = model(list(pixels), list(targets))
        loss = sum(losses.values())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 10.0)  # its first batches may leap
        optimiser.step()
        seen += BATCH
    return seen


@torch.inference_mode()
def detect_by_faster_rcnn(model: FasterRCNN, photo: np.ndarray) -> Detections:
    """Detect in one photograph, uint8 RGB (H, W, 3)."""
    with use_precision("auto", CPU):
        (found,) = model([torch.from_numpy(photo).permute(2, 0, 1).float() / 255])
    scores, labels = found["scores"].double().numpy(), found["labels"].numpy() - 1
    return Detections(found["boxes"].float().numpy(), scores, labels)


def measure_on(
    detect: Callable[[np.ndarray], Detections], dataset: LabelledSet
) -> dict[str, float]:
    """Measure mAP, and the median seconds of a photograph from file to boxes, one by one."""
    found, seconds = [], []
    for photograph in dataset:
        start = time.perf_counter()
        found.append(detect(read_photo(photograph.path)))
        seconds.append(time.perf_counter() - start)
    mean_ap = measure(found, dataset)[1]["mAP"]
    return {"mAP": mean_ap, "seconds_a_photograph": float(np.median(seconds))}


def try_faster_rcnn(
    arguments: argparse.Namespace, minutes: float, rate: float, splits: tuple[str, str]
) -> dict[str, Any]:
    """Train and measure once, or read what was measured."""
    path = arguments.work / f"faster-rcnn-{splits[1]}-{minutes:g}-{rate:g}.json"
    if not path.is_file():
        sets = [open_dataset(arguments.data, split) for split in splits]
        model = make_faster_rcnn(arguments.weights, len(sets[0].classes))
        seen = train_for(model, sets[0], minutes, rate)
        measured = measure_on(partial(detect_by_faster_rcnn, model.eval()), sets[1])
        write_json(path, {"minutes": minutes, "rate": rate, "photographs_seen": seen} | measured)
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(f"Faster R-CNN, {splits[1]}: {result}", flush=True)
    return result


def try_ours(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Train ours on trainval and measure it on test, or read what was measured."""
    run = arguments.work / name.replace(" ", "_").replace(",", "")
    path = run / "test.json"
    if not path.is_file():
        if not (run / "metrics.json").is_file():
            shutil.rmtree(run, ignore_errors=True)  # gone on with, its minutes would be too few
            train = ["train", str(arguments.data), "--out", str(run), *OURS[name]]
            command = [sys.executable, "-m", "spp_detect", *train, "--weights", arguments.weights]
            subprocess.run(command, check=True)
        trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        test = open_dataset(arguments.data, "test")
        measured = measure_on(Detector.load(run, "cpu").detect, test)
        write_json(path, {"minutes": trained["seconds"] / 60} | measured)
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    print(f"ours, {name}: {result}", flush=True)
    return result


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fill both sides' curves."""
    search: dict[str, dict[str, float]] = {}
    curve, best = [], RATES[0]
    for minutes in MINUTES:
        if minutes in SEARCH_MINUTES:
            tried = {
                rate: try_faster_rcnn(arguments, minutes, rate, ("train", "val"))["mAP"]
                for rate in RATES
            }
            search[str(minutes)] = {str(rate): mean_ap for rate, mean_ap in tried.items()}
            best = max(tried, key=lambda rate: tried[rate])
        curve.append(try_faster_rcnn(arguments, minutes, best, ("trainval", "test")))
    ours = {name: try_ours(arguments, name) for name in OURS}
    photographs = len(open_dataset(arguments.data, "trainval"))
    return {
        "photographs": photographs,
        "threads": torch.get_num_threads(),
        "faster_rcnn": curve,
        "search_on_val": search,
        "ours": ours,
    }


def plot_curves(result: dict[str, Any], path: Path) -> None:
    """Draw mAP over minutes of training."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    panel = figure.subplots()
    for name, points in (
        ("SPP-net, frozen trunk and SVMs", list(result["ours"].values())),
        ("Faster R-CNN of torchvision", result["faster_rcnn"]),
    ):
        points = sorted(points, key=lambda point: point["minutes"])
        x, y = ([point[key] for point in points] for key in ("minutes", "mAP"))
        panel.plot(x, [100 * value for value in y], marker="o", label=name)
    panel.set_xscale("log")
    panel.set_xticks(MINUTES, [str(minutes) for minutes in MINUTES])
    panel.set_xlabel(
        "minutes of training, {threads} threads, {photographs} photographs".format_map(result)
    )
    panel.set_ylabel("mAP on test, %")
    panel.set_ylim(bottom=0)
    panel.grid(color="#e4e4e4")
    panel.legend(frameon=False)
    FigureCanvasAgg(figure).print_figure(path, format="png", dpi=130)


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    set_threads()
    arguments.work.mkdir(parents=True, exist_ok=True)
    result = compare(arguments)
    write_result(arguments.out, result)
    plot_curves(result, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
