"""Commands for those who have a model: detect with it, pack it, make it faster."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup
from cloup import option_group

from spp_detect.cli.options import (
    FiniteFloat,
    PlaceType,
    device_option,
    join_models,
    max_side_option,
    model_folder,
    model_folders,
    name_model,
    needing_ray,
    path_type,
    ready_option,
    show_examples,
    telling_how_to_go_on,
    test_time_option,
    threads_option,
    trunk_option,
)
from spp_detect.ready_models import describe_models

if TYPE_CHECKING:
    from data import LabelledSet
    from spp_detect.detector import Detector, PhotoDetector

PROMISING = 500
EXPORTS = ("drawn", "crops", "voc", "yolo", "comp4")


@cloup.command(
    epilog=show_examples(
        "detect photos --model voc2007_tuned --out found",
        "detect runs/voc07 photos --out found --min-score -0.5 --also crops --also yolo",
        "detect runs/voc07 photos --out -",
        "detect runs/voc07 clip.mp4 --every 5 --out found_clip",
        "detect runs/voc07 photos --out shards --ray local",
    )
)
@model_folders
@click.argument("folder", type=PlaceType())
@option_group("Model", ready_option, trunk_option)
@option_group(
    "Detection",
    click.option(
        "--min-score",
        type=FiniteFloat(),
        help="Least score of a detection, after votes raised it; an SVM's own is 0 on the border "
        "between its class and all else. By default -0.4, or -0.8 where votes raise nothing: of "
        "older models, with support=0 or vote_iou=none. The page has a slider from here upwards, "
        "and probabilities where the model knows them.",
    ),
    test_time_option,
    click.option(
        "--every",
        type=click.IntRange(1),
        default=1,
        help="Of a video, look at each so many-th frame.",
    ),
    max_side_option,
)
@option_group(
    "Results",
    click.option("--out", type=PlaceType(), required=True, help="Folder for the results."),
    click.option(
        "--also",
        "exports",
        multiple=True,
        type=click.Choice(EXPORTS),
        help="Write this, too, in a folder of its name below --out; repeatable.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on with an earlier run in --out: only what it lacks is done.",
    ),
)
@option_group(
    "Run",
    device_option,
    threads_option,
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Detect on a Ray cluster, HOST:PORT or auto; local starts one here. FOLDER and --out "
        "may then be URLs as s3://bucket/folder, and results are shards of json lines and parquet.",
    ),
)
def detect(
    runs: tuple[Path, ...],
    folder: Path | str,
    ready: tuple[str, ...],
    weights: str | None,
    changes: dict[str, Any],
    out: Path | str,
    min_score: float | None,
    exports: tuple[str, ...],
    every: int,
    resume: bool,
    device: str,
    max_side: int,
    ray: str | None,
) -> None:
    """Detect on a folder of photographs: json, csv, and a page to look at and to hand on.

    FOLDER may also be one photograph, or a video: then a csv of all frames' boxes and a copy with
    the boxes drawn are left.

    Several RUNs detect together. A photograph that cannot be read is named and skipped; the exit
    status is then 2. With --out - nothing is left but a line of json a photograph on stdout, as
    soon as it is done.
    """
    from spp_detect.ensemble import load_detector
    from spp_detect.features import choose_device
    from spp_detect.folders import report_folder, stream_folder
    from spp_detect.report.folder import PAGE
    from spp_detect.videos import is_video, report_video

    models = join_models(runs, ready)
    detector = load_detector(models, device, weights).change(**changes)
    min_score = detector.least_score if min_score is None else min_score
    if ray is not None:
        if exports or every != 1 or str(out) == "-" or device != "auto":
            raise click.UsageError("--also, --every, --device, --out -: expected none with --ray")
        task = models, weights, changes
        sys.exit(
            _detect_on_cluster(detector, task, (folder, out), min_score, max_side, ray, resume)
        )
    if isinstance(folder, str) or isinstance(out, str):
        raise click.UsageError(f"{folder}, {out}: expected URLs with --ray only")
    names = " + ".join(map(name_model, models))
    settings = {"model": names, "device": str(choose_device(device))}
    if str(out) == "-":
        if exports or resume or every != 1:
            raise click.UsageError("--also, --every, --resume: expected none with --out -")
        with telling_how_to_go_on("what was found so far stands above"):
            sys.exit(2 if stream_folder(detector, folder, sys.stdout, min_score, max_side) else 0)
    if is_video(folder):
        if exports or resume:
            raise click.UsageError("--also and --resume: expected none with a video")
        with telling_how_to_go_on(f"what was found so far is in {out}"):
            video = report_video(detector, folder, out, min_score, max_side, every)
        print(f"{video.frames} frames: {video.detections} detections; {out}")
        sys.exit(2 if video.broken_off else 0)
    if every != 1:
        raise click.UsageError("--every: expected with a video")
    told = f"what was found so far is in {out / PAGE}; go on with --resume"
    with telling_how_to_go_on(told):
        report = report_folder(
            detector,
            folder,
            out,
            min_score,
            max_side,
            exports=exports,
            settings=settings,
            resume=resume,
        )
    print(f"{report.summary}; {out / PAGE}")
    sys.exit(2 if report.skipped else 0)


def _detect_on_cluster(
    detector: PhotoDetector,
    parts: tuple[list[Path], str | None, dict[str, Any]],
    places: tuple[Path | str, Path | str],
    min_score: float,
    max_side: int,
    address: str,
    resume: bool,
) -> int:
    """Detect by Ray, and say how all photographs ended: the exit status."""
    with needing_ray():
        from spp_detect.cluster.detecting import Task, detect_on_cluster
        from spp_detect.cluster.places import Place
    folder, out = map(Place.find, places)
    settings = detector.proposal_settings
    task = Task.describe(*parts, (folder, out), min_score, max_side, settings)
    identity = detector.identify() | {"least score": min_score, "largest side": max_side}
    with telling_how_to_go_on(f"what is done is in {out.text}; go on with --resume"):
        account = detect_on_cluster(task, identity, address, resume=resume)
    for told in account.failed.values():
        print(f"spp-detect: skipped: {told}", file=sys.stderr)
    print(f"{account}; {out.text}")
    return 2 if account.failed else 0


@cloup.command()
def models() -> None:
    """List the models that come with the package, ready to detect."""
    from spp_detect.report.terminal import show_models

    described = describe_models()
    if not described:
        print("none come with this version: train one")
        return
    show_models(described)


@cloup.command(epilog=show_examples("pack runs/voc07 --out voc07_small"))
@model_folder
@click.option("--out", type=path_type, required=True, help="Model folder to make.")
@threads_option
def pack(run: Path, out: Path) -> None:
    """Save RUN small, to hand on: without its trunk, whose weights are public, in half precision.

    For a trunk with torchvision's ImageNet weights; of one that was tuned the layers that learnt
    are kept. Who loads it needs those weights, downloaded or by --weights; others are refused.
    """
    from spp_detect.detector import Detector
    from spp_detect.trained_on import carry_over
    from spp_detect.training.run_folder import check_new

    check_new(out)
    Detector.load(run, "cpu").pack(out)
    carry_over([run], out)
    print(f"{out}: packed, {sum(path.stat().st_size for path in out.iterdir()) / 1e6:.1f} MB")


@cloup.command(
    epilog=show_examples(
        "compress runs/fc7 --rank 256 --out runs/fast",
        "compress runs/fc7 --first runs/voc07 --out runs/cascade",
    )
)
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
    from spp_detect.detector import Detector
    from spp_detect.experiments.cascade_size import choose_count, measure_counts
    from spp_detect.opening import open_checked
    from spp_detect.trained_on import carry_over, warn_of_seen
    from spp_detect.training.run_folder import check_new

    check_new(out)
    detector = Detector.load(run, "cpu")
    if rank is not None:
        detector = detector.compress(rank)
    if first is not None:
        cheap = Detector.load(first, "cpu")
        cascade = detector.cascade(cheap, promising or PROMISING)
        if calibrate is not None and split is not None:
            dataset = open_checked(calibrate, split, detector.classes, max_side)
            warn_of_seen(dataset, [run, first])
            mean_ap = measure_counts(cascade, dataset, max_side)
            cascade = detector.cascade(cheap, choose_count(mean_ap))
        detector = cascade
    detector.save(out)
    carry_over([run] if first is None else [run, first], out)
    if calibrate is not None:
        _write_calibration(out, mean_ap, detector, dataset)
    print(f"{out}: a faster model of {run}")


@cloup.command(epilog=show_examples("export runs/voc07 --onnx voc07_onnx"))
@model_folder
@click.option(
    "--onnx",
    "folder",
    type=path_type,
    required=True,
    help="Folder to make, of trunk.onnx, head.onnx and model.json.",
)
@trunk_option
@threads_option
def export(run: Path, folder: Path, weights: str | None) -> None:
    """Write RUN as ONNX graphs, for runtimes without torch, and check them with onnxruntime.

    trunk.onnx makes a map of a resized photograph, head.onnx scores and moves windows on it. The
    docs tell how the two go together, and what is left to do outside.
    """
    from spp_detect.detector import Detector
    from spp_detect.export import export_onnx
    from spp_detect.training.run_folder import check_new

    check_new(folder)
    export_onnx(Detector.load(run, "cpu", weights), folder)
    print(f"{folder}: {run} as ONNX graphs")


def _write_calibration(
    out: Path, mean_ap: dict[int, float], cascade: Detector, dataset: LabelledSet
) -> None:
    from spp_detect.files import write_json
    from spp_detect.provenance import record_run

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
