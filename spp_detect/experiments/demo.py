"""The whole of the program on a set that it makes itself: nothing is downloaded."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from data import LabelledSet, make_synthetic_set, open_dataset
from data.synthetic import MARK
from eval import plot_curves, write_comp
from spp_detect.backbones import Backbone
from spp_detect.classification.config import MINIMUM_SIDE
from spp_detect.classification.network import load_classifier
from spp_detect.config import RunConfig, make_run_config
from spp_detect.detector import Detector
from spp_detect.evaluation import detect_dataset, measure
from spp_detect.experiments.crops import write_crops
from spp_detect.experiments.speed import BenchmarkSettings, run_benchmark
from spp_detect.files import write_json, write_text
from spp_detect.folders import report_folder
from spp_detect.provenance import record_run
from spp_detect.report.chart import plot_seconds
from spp_detect.report.drawing import join_images, save_image
from spp_detect.report.page import Figure, render_page
from spp_detect.report.terminal import show_benchmark, show_result
from spp_detect.training.feature_cache import Resources
from spp_detect.training.pretraining_run import PretrainingOptions, PretrainingRun
from spp_detect.training.run import TrainingRun
from spp_detect.training.run_folder import TrainingError
from spp_detect.training.team import Team

CROP_COPIES = 8
# A classifier's settings at which its trunk learns the set's shapes: small inputs of two sizes.
TRUNK: dict[str, Any] = {
    "backbone": "small5",
    "levels": [3, 2, 1],
    "fc_depth": 0,
    "sizes": [96, 64],
    "epochs": 9,
    "batch": 64,
    "start": "normed",
    "rate": 4e-3,
}
MEMORY = 1_000_000_000
LEFT = ("trunk", "run", "evaluation", "photographs", "detections", "benchmark", "report")
PHOTOGRAPHS = {"train": 600, "val": 160, "test": 100}
PHOTOGRAPHS_SHOWN = 12
PHOTOGRAPHS_TIMED = 4
SCALES_TIMED = (224, 268, 320, 402, 558)  # the paper's five, in proportion
LEAST_SCORE_SHOWN = -0.3  # near the best mean F1 on this set


def run_demo(out: Path, device: torch.device, seed: int) -> dict[str, Any]:
    """Make the synthetic set, train a trunk and a detector, evaluate, detect on a folder, time.

    Parameters
    ----------
    out : Path
        Gets voc/ (the set), trunk/ (a classifier), run/ (the model), evaluation/, photographs/
        and detections/ (a folder detected on), benchmark/, report/index.html and metrics.json;
        what an earlier demo left goes.
    device : torch.device
        Where to compute.
    seed : int
        Of everything random.

    Returns
    -------
    dict
        The content of metrics.json.

    Raises
    ------
    TrainingError
        For a folder that holds other files.
    """
    start = time.perf_counter()
    _clear(out)
    voc = make_synthetic_set(out / "voc", **PHOTOGRAPHS, seed=seed)
    # As ImageNet and VOC: the trunk learns on photographs that the detector is not trained on.
    backbone, trunk_error = train_trunk(open_dataset(voc, "train"), out / "trunk", device, seed)
    dataset = open_dataset(voc, "val")
    detector = train_detector(dataset, out / "run", backbone, device, seed)
    test = open_dataset(voc, "test", detector.classes)
    numbers = _evaluate(detector, test, out)
    _detect_folder(detector, test, out)
    speedup = _time(detector, test, out)
    numbers |= {
        "speedup": speedup,
        "trunk_error": trunk_error,
        "seconds": round(time.perf_counter() - start, 1),
        "record": record_run(),
    }
    write_json(out / "metrics.json", numbers)
    _write_page(numbers, test, out)
    print(f"{out / 'report' / 'index.html'}: mAP {numbers['mAP']:.3f} on held-out photographs")
    return numbers


def _clear(out: Path) -> None:
    """Remove what an earlier demo left, but for the set, and nothing else."""
    if not (out / "voc" / MARK).is_file():
        if out.exists() and any(path.name[0] != "." for path in out.iterdir()):
            raise TrainingError(f"{out}: holds files that are no earlier demo's; expected none")
        return
    for name in LEFT:
        shutil.rmtree(out / name, ignore_errors=True)


def train_trunk(
    dataset: LabelledSet, run: Path, device: torch.device, seed: int
) -> tuple[Backbone, float]:
    """Train the demo's trunk from scratch, as a classifier of crops.

    Parameters
    ----------
    dataset : LabelledSet
        Whose objects are cut out.
    run : Path
        Gets the classifier, and crops/, which it learnt from.
    device : torch.device
        Where to train.
    seed : int
        Of the crops and of the first weights.

    Returns
    -------
    tuple of Backbone and float
        The trunk; its error on crops that were held out, most of objects of which it learnt from
        others.
    """
    crops = run / "crops"
    side = round(max(TRUNK["sizes"]) * MINIMUM_SIDE)
    write_crops(dataset, crops, side, CROP_COPIES, np.random.default_rng(seed))
    options = PretrainingOptions(str(crops), "trainval", TRUNK | {"seed": seed})
    team = Team(device=device)
    numbers = PretrainingRun(run, options, team, MEMORY).train()
    return load_classifier(run).trunk, numbers["held_out_error"]


def train_detector(
    dataset: LabelledSet, run: Path, backbone: Backbone, device: torch.device, seed: int
) -> Detector:
    """Train a detector with the demo's trunk."""
    return TrainingRun(run, dataset, demo_config(seed), backbone, Resources(device)).train()


def demo_config(seed: int) -> RunConfig:
    """The default constants, at a scale that suits the set's small photographs."""
    return make_run_config(backbone="small5", weights="demo", scales=(320,), seed=seed)


def _evaluate(detector: Detector, test: LabelledSet, out: Path) -> dict[str, Any]:
    found = detect_dataset(detector, test)
    result, numbers = measure(found, test)
    show_result(result, "held-out photographs of the synthetic set")
    write_comp(out / "evaluation", found, [p.name for p in test], test.classes)
    plot_curves(result, out / "evaluation" / "precision_recall.png")
    return numbers


def _detect_folder(detector: Detector, test: LabelledSet, out: Path) -> None:
    for photograph in test.photographs[:PHOTOGRAPHS_SHOWN]:
        (out / "photographs").mkdir(exist_ok=True)
        shutil.copy(photograph.path, out / "photographs")
    report_folder(
        detector, out / "photographs", out / "detections", LEAST_SCORE_SHOWN, exports=["drawn"]
    )


def _time(detector: Detector, test: LabelledSet, out: Path) -> float:
    """Time against R-CNN: how many times as long it takes, in the paper's accounting."""
    paths = [photograph.path for photograph in test.photographs[:PHOTOGRAPHS_TIMED]]
    result = run_benchmark(detector, paths, BenchmarkSettings(SCALES_TIMED[2], SCALES_TIMED))
    show_benchmark(result)
    write_json(out / "benchmark" / "benchmark.json", result)
    plot_seconds(result, out / "benchmark" / "benchmark.png")
    one_scale = next(iter(result["speedup"].values()))
    return float(one_scale["paper"]["median"])


def _write_page(numbers: dict[str, Any], test: LabelledSet, out: Path) -> None:
    facts = {
        "mAP, 11-point": f"{numbers['mAP']:.3f}",
        "mAP, area": f"{numbers['mAP_area']:.3f}",
        "COCO AP": f"{numbers['coco']['AP']:.3f}",
        "held-out photographs": str(len(test)),
        "R-CNN's time over SPP-net's": f"{numbers['speedup']:.0f}×",
        "seconds in all": f"{numbers['seconds']:.0f}",
    }
    (out / "report").mkdir(exist_ok=True)
    curves = Figure("../evaluation/precision_recall.png", "Precision and recall", "per class")
    times = Figure("../benchmark/benchmark.png", "Seconds per stage", "beside R-CNN")
    shown = [
        Figure(f"../detections/drawn/{p.path.name}.jpg", p.name, f"score above {LEAST_SCORE_SHOWN}")
        for p in test.photographs[:PHOTOGRAPHS_SHOWN]
    ]
    drawn = [Image.open(out / "report" / figure.address) for figure in shown]
    save_image(join_images(drawn, columns=4, width=1200), out / "report" / "detections.png")
    figures = [("Evaluation", [curves, times]), ("Detections", shown)]
    page = render_page("SPP-detect demo", facts, figures)
    write_text(out / "report" / "index.html", page)
