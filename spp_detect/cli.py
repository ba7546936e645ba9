"""The command line: `spp-detect COMMAND`."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bbox_regression import RegressionError
from data import (
    DEFAULT_MAX_SIDE,
    DataError,
    LabelledSet,
    check_photographs,
    join_sets,
    open_dataset,
)
from eval import (
    ErrorAnalysis,
    EvalError,
    VocResult,
    plot_curves,
    read_coco_results,
    read_comp,
    write_comp,
)
from proposals import METHODS, ProposalCache, ProposalError, ProposalSettings, load_boxes
from spp_detect import progress
from spp_detect.backbones import BACKBONES, Backbone, WeightsError, read_fc_weights
from spp_detect.config import (
    EXTRACTORS,
    FEATURES,
    PAPER_SCALES,
    PRESETS,
    SINGLE_SCALE,
    TEST_TIME,
    ConfigError,
    make_training_config,
    parse_setting,
    read_settings,
)
from spp_detect.detector import Detector, PhotoDetector
from spp_detect.ensemble import load_detector
from spp_detect.evaluation import detect_dataset, find_errors, measure
from spp_detect.experiments.cascade_size import choose_count, measure_counts
from spp_detect.experiments.demo import run_demo
from spp_detect.experiments.download import DownloadError, download_voc
from spp_detect.experiments.paper_tables import TableMaker, TablePlan, render_tables
from spp_detect.experiments.published import COLUMNS
from spp_detect.experiments.speed import (
    BenchmarkError,
    BenchmarkSettings,
    run_benchmark,
    sample_photographs,
)
from spp_detect.features import choose_device
from spp_detect.files import write_json
from spp_detect.folders import propose_folder, report_folder
from spp_detect.model_folder import ModelError
from spp_detect.prefetch import WindowSource, read_windows, search_windows
from spp_detect.provenance import find_commit, find_version, record_run
from spp_detect.ready_models import FOLDER, describe_models, find_model, is_ready, list_names
from spp_detect.report.chart import plot_seconds
from spp_detect.report.errors import plot_errors
from spp_detect.report.folder import PAGE, ReportError
from spp_detect.report.terminal import (
    show_benchmark,
    show_errors,
    show_models,
    show_recall,
    show_result,
)
from spp_detect.threads import get_threads, set_threads
from spp_detect.training.assembly import (
    RunOptions,
    assemble_run,
    find_options,
    make_settings,
    make_trunk,
)
from spp_detect.training.feature_cache import Resources
from spp_detect.training.finetuning import TuningError
from spp_detect.training.run import leave_out_without_positives
from spp_detect.training.run_folder import (
    TrainingError,
    check_begun,
    check_new,
    proposal_folder,
)
from svm import SvmError

logger = logging.getLogger(__name__)

PROMISING = 500
TABLE_ITERATIONS = 4000
USER_ERRORS = (
    BenchmarkError,
    ConfigError,
    DataError,
    DownloadError,
    EvalError,
    ModelError,
    ProposalError,
    RegressionError,
    ReportError,
    SvmError,
    TrainingError,
    TuningError,
    WeightsError,
    OSError,
)


class FiniteFloat(click.ParamType):
    """A number, and not NaN or infinite."""

    name = click.FLOAT.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn a word into a number."""
        number = float(click.FLOAT.convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


path_type = click.Path(path_type=Path)
labelled_data = click.argument("data", type=path_type)
model_folder = click.argument("run", type=path_type)
model_folders = click.argument("runs", metavar="[RUN...]", nargs=-1, type=path_type)
ready_option = click.option(
    "--model",
    "ready",
    multiple=True,
    type=click.Choice(list_names()),
    hidden=not list_names(),
    help="A ready model, see `models`, instead of RUN or together with it.",
)
trunk_option = click.option(
    "--weights",
    help="Of a packed model's trunk: a .safetensors or .pth file; torchvision's download if not "
    "given.",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    help="Where maps are computed and windows pooled.",
)
boxes_option = click.option(
    "--boxes", type=path_type, help="Windows from this .npz or .mat file, not from the method."
)
seed_option = click.option("--seed", type=click.IntRange(0), default=0, help="Seed of all chance.")
max_side_option = click.option(
    "--max-side",
    type=click.IntRange(1),
    default=DEFAULT_MAX_SIDE,
    help="Largest side in pixels of a photograph that is read.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    expose_value=False,
    callback=lambda context, option, count: set_threads(count),
    help="Threads that compute; if not given, the cores that this process may use.",
)


map_budget_option = click.option(
    "--map-budget",
    type=click.FloatRange(0),
    default=8.0,
    help="GB of maps, or of R-CNN's features, kept on disk.",
)
backbone_option = click.option("--backbone", type=click.Choice(list(BACKBONES)), help="Trunk.")
weights_option = click.option(
    "--weights", default="imagenet", help="imagenet, none, or a .safetensors or .pth file."
)
preset_option = click.option(
    "--preset",
    type=click.Choice(PRESETS),
    help="Whose constants; a setting's or else the defaults if not given.",
)
train_from_option = click.option(
    "--train-from", help="First of the trunk's layers that is tuned, too."
)
fc_width_option = click.option(
    "--fc-width", type=click.IntRange(1), help="Values of fc6 and of fc7."
)
set_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Any constant; repeatable."
)
test_time_option = click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help=f"A constant of test time: {', '.join(TEST_TIME)}; repeatable.",
)
config_option = click.option(
    "--config", type=path_type, help="A .json of constants, as a model's config.json."
)


@click.group(
    context_settings={"show_default": True, "help_option_names": ["-h", "--help"]},
    epilog="Bad input ends in one line on stderr and exit status 2; --debug shows a traceback.",
)
@click.version_option(find_version("spp-detect") or "unknown", prog_name="spp-detect")
@click.pass_context
def app(context: click.Context) -> None:
    """SPP-net object detection: one convolution pass per photograph, any number of windows."""
    context.with_resource(progress.show())
    context.with_resource(_log_to_stderr())
    find_commit()


@app.command()
@click.option("--out", type=path_type, default=Path("runs/demo"), help="Folder for all of it.")
@device_option
@seed_option
@threads_option
def demo(out: Path, device: str, seed: int) -> None:
    """Make a synthetic set, train on it, evaluate, detect on a folder; no download."""
    run_demo(out, choose_device(device), seed)


@app.command()
@click.argument("name", type=click.Choice(["voc2007"]))
@click.option("--to", type=path_type, required=True, help="Folder for the data set.")
def download(name: str, to: Path) -> None:
    """Download a public data set and check it."""
    print(f"{name} is ready, give this folder to train and evaluate: {download_voc(to)}")


@app.command()
@click.argument("data", metavar="[DATA...]", nargs=-1, type=path_type)
@click.option("--out", type=path_type, required=True, help="Model folder to make.")
@click.option("--split", default=RunOptions.split, help="Split of DATA.")
@weights_option
@preset_option
@click.option(
    "--extractor",
    type=click.Choice(EXTRACTORS),
    help="SPP-net, or R-CNN with all else equal: one pass of the trunk per window.",
)
@backbone_option
@click.option("--scales", help="Short sides in pixels, joined by commas.")
@click.option(
    "--finetune",
    "finetune_iterations",
    type=click.IntRange(0),
    help="Iterations of fine-tuning of the fc layers, 128 windows each.",
)
@train_from_option
@click.option(
    "--feature",
    type=click.Choice(FEATURES),
    help="What the SVMs take; fc7 with --finetune, else pool5.",
)
@fc_width_option
@click.option("--proposals", type=click.Choice(METHODS), help="Window method.")
@click.option(
    "--max-windows",
    type=click.IntRange(1),
    help="Most windows of a photograph, here and in detection.",
)
@set_option
@config_option
@boxes_option
@click.option(
    "--classes",
    help="Classes to learn, joined by commas; all that are labelled if not given.",
)
@click.option(
    "--strict", is_flag=True, help="Refuse a set that has a class without boxes to learn from."
)
@click.option("--seed", type=click.IntRange(0), help="Seed of all chance.")
@click.option(
    "--resume", is_flag=True, help="Go on with the run in --out, with its DATA and its options."
)
@device_option
@map_budget_option
@max_side_option
@threads_option
@click.pass_context
def train(
    context: click.Context,
    data: tuple[Path, ...],
    out: Path,
    resume: bool,
    strict: bool,
    device: str,
    map_budget: float,
    max_side: int,
    changes: tuple[str, ...],
    config: Path | None,
    **options: Any,
) -> None:
    """Train a detector on labelled photographs; stopped anywhere, it goes on with --resume.

    DATA is a VOC folder, photographs with an .xml each, a COCO .json file, or a YOLO folder or its
    .yaml file; several are joined. Constants that are not given are the preset's; the options for
    them are short for --set KEY=VALUE.
    """
    named = {name: options.pop(name) for name in ("split", "weights", "boxes", "classes")}
    named["boxes"] = str(named["boxes"]) if named["boxes"] else None
    given: dict[str, Any] = {name: named[name] for name in named if _is_given(context, name)}
    settings = _collect_settings(options, changes, config)
    if "preset" in settings:
        given["preset"] = settings.pop("preset")
    given["settings"] = settings
    if data:
        given["data"] = [str(one.absolute()) for one in data]
    if resume:
        check_begun(out)
    else:
        check_new(out)
    asked = find_options(out, given)
    if not asked.data:
        raise click.UsageError("no DATA to train on: expected at least one labelled set")
    classes = asked.classes.split(",") if asked.classes else None
    resources = Resources(choose_device(device), int(map_budget * 1e9), max_side)
    paths = data or [Path(one) for one in asked.data]
    dataset = join_sets([_open_checked(one, asked.split, classes, max_side) for one in paths])
    if classes is None and not strict:
        dataset = leave_out_without_positives(dataset)
    run = assemble_run(out, dataset, asked, resources)
    if (out / "metrics.json").is_file():
        run.begin()  # refuses another set or other constants than it was trained with
        print(f"{out}: trained already")
        return
    with _telling_how_to_go_on(f"go on with --out {out} --resume"):
        run.train()
    print(f"{out}: trained on {len(dataset)} photographs")


@app.command()
@model_folders
@labelled_data
@ready_option
@trunk_option
@test_time_option
@click.option("--split", default="test", help="Split of DATA.")
@click.option("--out", type=path_type, help="Folder for metrics.json, comp4 files and curves.")
@boxes_option
@click.option("--regression/--no-regression", default=True, help="Move boxes by the regression.")
@click.option("--voting/--no-voting", default=True, help="Let moved windows vote on boxes.")
@device_option
@max_side_option
@threads_option
def evaluate(
    runs: tuple[Path, ...],
    data: Path,
    ready: tuple[str, ...],
    weights: str | None,
    changes: tuple[str, ...],
    split: str,
    out: Path | None,
    boxes: Path | None,
    regression: bool,
    voting: bool,
    device: str,
    max_side: int,
) -> None:
    """Detect on a labelled split and measure average precision.

    Several RUNs detect together: NMS over the union of their scored windows.
    """
    models = _join_models(runs, ready)
    constants = dict(parse_setting(change) for change in changes)
    detector = load_detector(models, device, weights).change(**constants)
    dataset = _open_checked(data, split, detector.classes, max_side)
    start = time.perf_counter()
    source = _find_source(models[0], detector, boxes)
    found = detect_dataset(
        detector, dataset, source=source, regress=regression, vote=voting, max_side=max_side
    )
    seconds = round(time.perf_counter() - start, 1)
    result, numbers = measure(found, dataset)
    errors = find_errors(found, dataset)
    show_result(result, f"{' + '.join(map(_name_model, models))} on {dataset.split}")
    show_errors(errors)
    if out is not None:
        numbers |= {
            "seconds": seconds,
            "regression": regression,
            "voting": regression and voting and detector.config.vote_iou is not None,
            "passes": detector.config.passes if regression else 1,
            "changed": constants,
            "models": [_summarise_model(model) for model in models],
        }
        _write_result(out, result, numbers, errors)
        names = [photograph.name for photograph in dataset]
        write_comp(out, found, names, dataset.classes, split=dataset.split)


@app.command()
@click.argument("detections", type=path_type)
@labelled_data
@click.option("--split", default="test", help="Split of DATA.")
@click.option("--out", type=path_type, help="Folder for metrics.json and curves.")
def score(detections: Path, data: Path, split: str, out: Path | None) -> None:
    """Measure anybody's detections.

    DETECTIONS is a folder of comp3 or comp4 files, or a .json file of COCO results, as `detect`
    writes them. A class is known by its name, `category`, or else by its id in a COCO set;
    a photograph by its id, name or file name.
    """
    dataset = open_dataset(data, split)
    if detections.suffix == ".json":
        ids, category_ids = _coco_ids(data, dataset)
        aliases = _find_aliases(dataset, ids)
        found = read_coco_results(detections, ids, category_ids, dataset.classes, aliases)
    else:
        names = [photograph.name for photograph in dataset]
        found = read_comp(detections, names, dataset.classes)
    result, numbers = measure(found, dataset)
    errors = find_errors(found, dataset)
    show_result(result, f"{detections} on {dataset.split}")
    show_errors(errors)
    if out is not None:
        _write_result(out, result, numbers, errors)


@app.command()
@model_folders
@click.argument("folder", type=path_type)
@ready_option
@trunk_option
@test_time_option
@click.option("--out", type=path_type, required=True, help="Folder for the results.")
@click.option("--min-score", type=FiniteFloat(), default=-0.8, help="Least score of a detection.")
@device_option
@max_side_option
@threads_option
def detect(
    runs: tuple[Path, ...],
    folder: Path,
    ready: tuple[str, ...],
    weights: str | None,
    changes: tuple[str, ...],
    out: Path,
    min_score: float,
    device: str,
    max_side: int,
) -> None:
    """Detect on a folder of photographs: json, csv, drawn pictures, a page.

    Several RUNs detect together. A photograph that cannot be read is named and skipped; the exit
    status is then 2.
    """
    detector = load_detector(_join_models(runs, ready), device, weights)
    detector = detector.change(**dict(parse_setting(change) for change in changes))
    with _telling_how_to_go_on(f"what was found so far is in {out / PAGE}"):
        report = report_folder(detector, folder, out, min_score, max_side)
    print(f"{report.summary}; {out / PAGE}")
    sys.exit(2 if report.skipped else 0)


@app.command()
def models() -> None:
    """List the models that come with the package, ready to detect."""
    described = describe_models()
    if not described:
        print("none come with this version: train one")
        return
    show_models(described)


@app.command()
@model_folder
@click.option("--out", type=path_type, required=True, help="Model folder to make.")
@threads_option
def pack(run: Path, out: Path) -> None:
    """Save RUN small, to hand on: without its trunk, whose weights are public, in half precision.

    For a trunk with torchvision's ImageNet weights that was not tuned. Who loads it needs those
    weights, downloaded or by --weights; other weights are refused.
    """
    check_new(out)
    Detector.load(run, "cpu").pack(out)
    print(f"{out}: packed, {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")


@app.command()
@model_folder
@click.option("--rank", type=click.IntRange(1), help="Compute fc6 by products of this rank.")
@click.option("--first", type=path_type, help="pool5 model that looks at all windows first.")
@click.option(
    "--promising",
    type=click.IntRange(1),
    help=f"Distinct windows that --first lets through to the fc layers; {PROMISING} if not given.",
)
@click.option(
    "--calibrate",
    type=path_type,
    help="Labelled photographs, not trained on, on which --promising is chosen instead.",
)
@click.option("--split", help="Split of --calibrate.")
@click.option("--out", type=path_type, required=True, help="Model folder to make.")
@max_side_option
@threads_option
def compress(
    run: Path,
    rank: int | None,
    first: Path | None,
    promising: int | None,
    calibrate: Path | None,
    split: str | None,
    out: Path,
    max_side: int,
) -> None:
    """Make a faster model of RUN that is nearly the same; `evaluate` says what it costs."""
    if rank is None and first is None:
        raise click.UsageError("nothing to do; give --rank, --first or both")
    if (calibrate is None) != (split is None):
        raise click.UsageError("--calibrate and --split: expected both or neither")
    if calibrate is not None and (first is None or promising is not None):
        raise click.UsageError("--calibrate chooses --promising for --first: give the latter alone")
    check_new(out)
    detector = Detector.load(run, "cpu")
    if rank is not None:
        detector = detector.compress(rank)
    if first is not None:
        cheap = Detector.load(first, "cpu")
        cascade = detector.cascade(cheap, promising or PROMISING)
        if calibrate is not None and split is not None:
            dataset = _open_checked(calibrate, split, detector.classes, max_side)
            mean_ap = measure_counts(cascade, dataset, max_side)
            cascade = detector.cascade(cheap, choose_count(mean_ap))
        detector = cascade
    detector.save(out)
    if calibrate is not None:
        _write_calibration(out, mean_ap, detector, dataset)
    print(f"{out}: a faster model of {run}")


def _write_calibration(
    out: Path, mean_ap: dict[int, float], cascade: Detector, dataset: LabelledSet
) -> None:
    for count, one in mean_ap.items():
        print(f"{count or 'all'} windows: mAP {one:.3f}")
    numbers = {
        "promising": cascade.config.promising,
        "mAP": {str(count or "all"): one for count, one in mean_ap.items()},
        "split": dataset.split,
        "photographs": len(dataset),
        "record": record_run(),
    }
    write_json(out / "calibration.json", numbers)


@app.command()
@model_folder
@click.argument("data", type=path_type)
@click.option("--images", type=click.IntRange(1), default=100, help="Random photographs of DATA.")
@click.option("--split", default="test", help="Split, where DATA is labelled.")
@click.option(
    "--scale", type=click.IntRange(16), default=SINGLE_SCALE, help="Of SPP-net at one scale."
)
@click.option(
    "--scales",
    default=",".join(map(str, PAPER_SCALES)),
    help="Short sides in pixels of SPP-net at several scales.",
)
@click.option("--windows", type=click.IntRange(1), default=2000, help="Most, per photograph.")
@click.option(
    "--rcnn", type=path_type, help="Model folder whose heads are R-CNN's; RUN's if not given."
)
@click.option(
    "--rcnn-images",
    type=click.IntRange(1),
    help="R-CNN takes only so many of the photographs; it is slow without a GPU.",
)
@click.option(
    "--repeats", type=click.IntRange(1), default=1, help="Per photograph; their median counts."
)
@click.option("--out", type=path_type, help="Folder for the results; RUN/benchmark if not given.")
@trunk_option
@seed_option
@device_option
@max_side_option
@threads_option
def benchmark(
    run: Path,
    data: Path,
    weights: str | None,
    images: int,
    split: str,
    scale: int,
    scales: str,
    windows: int,
    rcnn: Path | None,
    rcnn_images: int | None,
    repeats: int,
    out: Path | None,
    seed: int,
    device: str,
    max_side: int,
) -> None:
    """Time SPP-net at one scale and at several, and R-CNN with the same weights.

    DATA is labelled or just a folder of photographs.
    """
    if out is None and is_ready(find_model(run)):
        raise click.UsageError("--out: expected with a ready model, into whose folder none writes")
    detector = Detector.load(run, device, weights)
    settings = BenchmarkSettings(
        scale, _parse_scales(scales), windows, rcnn_images, repeats, max_side
    )
    paths = sample_photographs(data, split, images, seed, max_side)
    result = run_benchmark(detector, paths, settings, Detector.load(rcnn, device) if rcnn else None)
    show_benchmark(result)
    out = out or run / "benchmark"
    write_json(out / "benchmark.json", result)
    plot_seconds(result, out / "benchmark.png")


@app.command()
@labelled_data
@click.option("--out", type=path_type, required=True, help="Folder for the models and the tables.")
@click.option("--split", default="trainval", help="Split to train on.")
@click.option("--test-split", default="test", help="Split to measure on.")
@weights_option
@preset_option
@backbone_option
@click.option(
    "--finetune",
    "finetune_iterations",
    type=click.IntRange(1),
    help=f"Iterations; the preset's, {TABLE_ITERATIONS} where it has none.",
)
@train_from_option
@fc_width_option
@click.option(
    "--scale", type=click.IntRange(16), default=SINGLE_SCALE, help="Of the column with one."
)
@click.option("--scales", help="Of the column with several; the preset's, else the paper's.")
@click.option(
    "--columns", default=",".join(COLUMNS), help="Those of the paper to fill, joined by commas."
)
@click.option("--max-windows", type=click.IntRange(1), help="Per photograph.")
@click.option(
    "--rcnn-windows",
    type=click.IntRange(1),
    help="First windows of a photograph on which R-CNN is trained, each a pass of the trunk; all "
    "of --max-windows if not given.",
)
@click.option("--images", type=click.IntRange(1), default=10, help="Photographs to time.")
@set_option
@config_option
@click.option("--seed", type=click.IntRange(0), help="Seed of all chance.")
@device_option
@map_budget_option
@max_side_option
@threads_option
def tables(
    data: Path,
    out: Path,
    split: str,
    test_split: str,
    weights: str,
    scale: int,
    columns: str,
    rcnn_windows: int | None,
    images: int,
    device: str,
    map_budget: float,
    max_side: int,
    changes: tuple[str, ...],
    config: Path | None,
    **options: Any,
) -> None:
    """Fill the paper's tables 9 and 10: train and measure each cell; run it again to go on.

    Extractor, feature and scales are each cell's own, whatever the settings say.
    """
    resources = Resources(choose_device(device), int(map_budget * 1e9), max_side)
    train_set = _open_checked(data, split, None, max_side)
    test_set = _open_checked(data, test_split, train_set.classes, max_side)
    settings = _collect_settings(options, changes, config) | {"weights": Path(weights).name}
    preset = settings.pop("preset", "default")
    if not make_training_config(preset).finetune_iterations:
        settings = {"finetune_iterations": TABLE_ITERATIONS} | settings
    whole = make_settings(preset, settings)
    several = whole.model.scales if len(whole.model.scales) > 1 else PAPER_SCALES
    plan = TablePlan(
        train_set,
        test_set,
        whole,
        ((scale,), several),
        _parse_columns(columns),
        images,
        min(rcnn_windows or whole.model.max_windows, whole.model.max_windows),
    )

    def make_backbone() -> Backbone:
        return make_trunk(whole.model.backbone, weights, whole.model.seed)[0]

    fc_weights = read_fc_weights(whole.model.backbone, weights)
    with _telling_how_to_go_on("go on with the same command"):
        result = TableMaker(out, plan, make_backbone, resources, fc_weights).fill()
    print(render_tables(result))


@app.command()
@click.argument("folder", type=path_type)
@click.option("--out", type=path_type, required=True, help="The .npz file to write.")
@click.option("--method", type=click.Choice(METHODS), default=METHODS[0], help="Window method.")
@click.option("--split", default="trainval", help="Split, where FOLDER is labelled.")
@click.option("--max-windows", type=click.IntRange(1), default=3000, help="Per photograph.")
@click.option("--edge-model", type=path_type, help="OpenCV's structured edges, for edgeboxes.")
@seed_option
@max_side_option
@threads_option
def proposals(
    folder: Path,
    out: Path,
    method: str,
    split: str,
    max_windows: int,
    edge_model: Path | None,
    seed: int,
    max_side: int,
) -> None:
    """Propose windows and save them; prints their recall where FOLDER is labelled.

    A photograph that cannot be read is named and skipped; the exit status is then 2.
    """
    settings = ProposalSettings(
        method=method, max_windows=max_windows, seed=seed, edge_model=edge_model
    )
    recall, skipped = propose_folder(folder, split, settings, out, max_side)
    if recall is not None:
        show_recall(recall, f"{method} on {folder}")
    sys.exit(2 if skipped else 0)


def main() -> None:
    """Run the command line; a user's error is one line on stderr and exit status 2."""
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"])
    except USER_ERRORS as error:
        if debug:
            raise
        print(f"spp-detect: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _log_to_stderr() -> Iterator[None]:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("spp-detect: %(message)s"))
    logger = logging.getLogger("spp_detect")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _telling_how_to_go_on(told: str) -> Iterator[None]:
    """End an interrupted command with one line, and the status that shells give to such."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"spp-detect: stopped; {told}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) == ParameterSource.COMMANDLINE


def _parse_scales(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--scales {text}: expected numbers joined by commas") from error


def _parse_columns(text: str) -> tuple[str, ...]:
    columns = tuple(text.split(","))
    unknown = [column for column in columns if column not in COLUMNS]
    if unknown:
        raise ConfigError(f"--columns {unknown[0]}: expected some of {', '.join(COLUMNS)}")
    return columns


def _collect_settings(
    options: dict[str, Any], changes: tuple[str, ...], config: Path | None
) -> dict[str, Any]:
    """Constants that differ from the preset's: a file's, then --set's, then the options'."""
    given = {name: value for name, value in options.items() if value is not None}
    if "scales" in given:
        given["scales"] = _parse_scales(given["scales"])
    read = read_settings(config) if config is not None else {}
    return read | dict(parse_setting(change) for change in changes) | given


def _join_models(runs: tuple[Path, ...], ready: tuple[str, ...]) -> list[Path]:
    """Folders of all models that detect together, those of RUNs first."""
    if not runs and not ready:
        raise click.UsageError("no model: give a RUN, or --model NAME of one in `models`")
    return [*map(find_model, runs), *(FOLDER / name for name in ready)]


def _name_model(folder: Path) -> str:
    return folder.name if is_ready(folder) else str(folder)


def _summarise_model(folder: Path) -> dict[str, Any]:
    """What of a model's configuration its results must be read with."""
    text = (folder / "config.json").read_text(encoding="utf-8")
    config = json.loads(text)["config"]
    names = ("extractor", "backbone", "weights", "scales", "feature")
    return {"folder": _name_model(folder), **{name: config.get(name) for name in names}}


def _find_source(folder: Path, detector: PhotoDetector, boxes: Path | None) -> WindowSource:
    """Windows for evaluation: a file's, else the method's, kept beside a run where it can be."""
    if boxes is not None:
        return read_windows(load_boxes(boxes), detector.config.max_windows)
    writable = os.access(folder, os.W_OK) and not is_ready(folder)
    cache = ProposalCache(proposal_folder(folder)) if writable else None
    return search_windows(detector.proposal_settings, cache)


def _open_checked(
    data: Path, split: str, classes: tuple[str, ...] | list[str] | None, max_side: int
) -> LabelledSet:
    """Open a labelled set all of whose photographs can be read."""
    dataset = open_dataset(data, split, classes, max_side)
    problems = check_photographs(dataset, max_side, get_threads())
    if problems:
        more = f" (and {len(problems) - 1} more photographs)" if len(problems) > 1 else ""
        raise DataError(f"{problems[0]}{more}")
    if dataset.left_out:
        each = ", ".join(f"{count} {name}" for name, count in dataset.left_out.items())
        logger.warning("%s: objects of other classes left out: %s", data, each)
    for note in dataset.notes:
        logger.warning("%s: %s", data, note)
    return dataset


def _coco_ids(data: Path, dataset: LabelledSet) -> tuple[list[int | str], list[int | str] | None]:
    """Ids of photographs and classes in COCO results: the json's own, else names and none."""
    names = [photograph.name for photograph in dataset]
    if data.suffix.lower() != ".json":
        return [*names], None
    categories = json.loads(data.read_text(encoding="utf-8"))["categories"]
    ids = {str(category["name"]): int(category["id"]) for category in categories}
    return [int(name) for name in names], [ids[name] for name in dataset.classes]


def _find_aliases(dataset: LabelledSet, ids: list[int | str]) -> dict[str, int | str]:
    """Ids of photographs by their files' names, where no two files have the same."""
    files = Counter(photograph.path.name for photograph in dataset)
    pairs = zip(dataset, ids, strict=True)
    return {p.path.name: one for p, one in pairs if files[p.path.name] == 1}


def _write_result(
    out: Path, result: VocResult, numbers: dict[str, Any], errors: ErrorAnalysis
) -> None:
    """Write the numbers first: what may fail after them is made from the same detections."""
    write_json(out / "metrics.json", numbers | {"record": record_run()})
    write_json(out / "errors.json", vars(errors) | {"record": record_run()})
    plot_curves(result, out / "precision_recall.png")
    plot_errors(errors, out / "errors.png")
