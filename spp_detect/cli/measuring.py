"""Commands that measure average precision."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup
from cloup import option_group

from spp_detect.cli.options import (
    boxes_option,
    device_option,
    join_models,
    labelled_data,
    max_side_option,
    model_folders,
    name_model,
    path_type,
    ready_option,
    show_examples,
    test_time_option,
    threads_option,
    trunk_option,
)
from spp_detect.ready_models import is_ready

if TYPE_CHECKING:
    from data import LabelledSet
    from eval import ErrorAnalysis, VocResult
    from spp_detect.detector import PhotoDetector
    from spp_detect.prefetch import WindowSource

logger = logging.getLogger(__name__)


@cloup.command(
    epilog=show_examples(
        "evaluate runs/voc07 voc --out runs/voc07/test",
        "evaluate runs/voc07 voc --no-regression",
        "evaluate voc --model voc2007 --weights trunk.safetensors",
    )
)
@model_folders
@labelled_data
@option_group("Model", ready_option, trunk_option)
@option_group(
    "Data",
    click.option("--split", default="test", help="Split of DATA."),
    click.option("--strict", is_flag=True, help="Refuse a set that has any fault, see `inspect`."),
    boxes_option,
    max_side_option,
)
@option_group(
    "Detection",
    test_time_option,
    click.option(
        "--regression/--no-regression", default=True, help="Move boxes by the regression."
    ),
    click.option(
        "--voting/--no-voting",
        default=True,
        help="Let windows vote on boxes and raise scores.",
    ),
)
@option_group(
    "Run",
    click.option(
        "--out",
        type=path_type,
        help="Folder for the page, metrics.json, errors.json, comp4 files and curves.",
    ),
    device_option,
    threads_option,
)
def evaluate(
    runs: tuple[Path, ...],
    data: Path,
    ready: tuple[str, ...],
    weights: str | None,
    changes: dict[str, Any],
    split: str,
    out: Path | None,
    boxes: Path | None,
    strict: bool,
    regression: bool,
    voting: bool,
    device: str,
    max_side: int,
) -> None:
    """Detect on a labelled split and measure average precision.

    DATA is what `train` takes. The measure is VOC 2007's 11-point mAP; the area under the curve and
    COCO's stand beside it. Several RUNs detect together: NMS over the union of their scored
    windows.
    """
    from data import UNSPLIT
    from eval import quote_spaces, write_comp
    from spp_detect.ensemble import load_detector
    from spp_detect.evaluation import detect_dataset, find_errors, measure, write_page
    from spp_detect.opening import open_checked
    from spp_detect.report.terminal import show_errors, show_result
    from spp_detect.trained_on import find_held_out, warn_of_seen

    models = join_models(runs, ready)
    _check_results(out)
    detector = load_detector(models, device, weights).change(**changes)
    dataset = open_checked(data, split, detector.classes, max_side, strict=strict)
    if split != UNSPLIT:
        dataset = find_held_out(dataset, models[0])
    seen = warn_of_seen(dataset, models)
    start = time.perf_counter()
    source = _find_source(models[0], detector, boxes)
    found = detect_dataset(
        detector, dataset, source=source, regress=regression, vote=voting, max_side=max_side
    )
    seconds = round(time.perf_counter() - start, 1)
    result, numbers = measure(found, dataset)
    errors = find_errors(found, dataset)
    title = f"{' + '.join(map(name_model, models))} on {dataset.split}"
    show_result(result, title)
    show_errors(errors)
    votes = regression and voting and detector.config.vote_iou is not None
    if out is not None:
        numbers |= {
            "seconds": seconds,
            "seen_in_training": seen,
            "regression": regression,
            "voting": votes,
            "support": detector.config.support if votes else 0.0,
            "passes": detector.config.passes if regression else 1,
            "changed": changes,
            "models": [_summarise_model(model) for model in models],
        }
        _write_result(out, result, numbers, errors)
        names = [quote_spaces(photograph.name) for photograph in dataset]
        write_comp(out, found, names, dataset.classes, split=dataset.split)
        print(write_page(out, dataset, found, (result, numbers, errors), title))


@cloup.command(
    epilog=show_examples(
        "score runs/voc07/test voc", "score found/detections.json pets.json --out scored"
    )
)
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
    from data import open_dataset
    from eval import quote_spaces, read_coco_results, read_comp
    from spp_detect.evaluation import find_errors, measure
    from spp_detect.opening import tell_what_is_wrong
    from spp_detect.report.terminal import show_errors, show_result

    _check_results(out)
    dataset = tell_what_is_wrong(open_dataset(data, split), data)
    if detections.suffix == ".json":
        ids, category_ids = _coco_ids(data, dataset)
        aliases = _find_aliases(dataset, ids)
        others: Counter[str] = Counter()
        found = read_coco_results(
            detections, ids, category_ids, dataset.classes, aliases, left_out=others
        )
        if others:
            told = ", ".join(f"{count} {name}" for name, count in others.most_common())
            logger.warning("%s: detections of classes that are not in the set: %s", data, told)
    else:
        names = [quote_spaces(photograph.name) for photograph in dataset]
        found = read_comp(detections, names, dataset.classes)
    result, numbers = measure(found, dataset)
    errors = find_errors(found, dataset)
    show_result(result, f"{detections} on {dataset.split}")
    show_errors(errors)
    if out is not None:
        _write_result(out, result, numbers, errors)


def _check_results(out: Path | None) -> None:
    """Refuse a model's folder for results: its own numbers would go."""
    for name in ("config.json", "run.json"):
        if out is not None and (out / name).exists():
            raise click.UsageError(f"--out {out}: holds a model ({name}); expected another folder")


def _summarise_model(folder: Path) -> dict[str, Any]:
    """What of a model's configuration its results must be read with."""
    text = (folder / "config.json").read_text(encoding="utf-8")
    config = json.loads(text)["config"]
    names = ("extractor", "backbone", "weights", "scales", "feature")
    return {"folder": name_model(folder), **{name: config.get(name) for name in names}}


def _find_source(folder: Path, detector: PhotoDetector, boxes: Path | None) -> WindowSource:
    """Windows for evaluation: a file's, else the method's, kept beside a run where it can be."""
    from proposals import ProposalCache, load_boxes
    from spp_detect.prefetch import read_windows, search_windows
    from spp_detect.training.run_folder import proposal_folder

    if boxes is not None:
        return read_windows(load_boxes(boxes), detector.config.max_windows)
    writable = os.access(folder, os.W_OK) and not is_ready(folder)
    cache = ProposalCache(proposal_folder(folder)) if writable else None
    return search_windows(detector.proposal_settings, cache)


def _coco_ids(data: Path, dataset: LabelledSet) -> tuple[list[int | str], list[int | str] | None]:
    """Ids of photographs and classes in COCO results: the json's own, else names and none."""
    names = [photograph.name for photograph in dataset]
    if data.suffix.lower() != ".json":
        return [*names], None
    categories = json.loads(data.read_text(encoding="utf-8-sig"))["categories"]
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
    from eval import plot_curves
    from spp_detect.files import write_json
    from spp_detect.provenance import record_run
    from spp_detect.report.errors import plot_errors

    write_json(out / "metrics.json", numbers | {"record": record_run()})
    write_json(out / "errors.json", vars(errors) | {"record": record_run()})
    plot_curves(result, out / "precision_recall.png")
    plot_errors(errors, out / "errors.png")
