"""Commands of the paper's classification half: train a classifier, use it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup
from cloup import option_group

from spp_detect.classification.view_names import VIEW_NAMES
from spp_detect.cli.options import (
    FiniteRange,
    backbone_option,
    device_option,
    is_given,
    max_side_option,
    model_folder,
    path_type,
    show_examples,
    telling_how_to_go_on,
    threads_option,
)

if TYPE_CHECKING:  # loaded by the commands themselves, so that help comes at once
    import numpy as np
    from numpy.typing import NDArray

NO_PYRAMID_WORD = "none"


def _parse_numbers(
    context: click.Context, option: click.Parameter, text: str | None
) -> tuple[int, ...] | None:
    """Parse whole numbers joined by commas; the word none stands for the levels of no pyramid."""
    from spp_detect.classification.config import NO_PYRAMID

    if text is None:
        return None
    if text == NO_PYRAMID_WORD and option.name == "levels":
        return NO_PYRAMID
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text}: expected whole numbers joined by commas") from None


@cloup.command(
    epilog=show_examples(
        "pretrain imagenet --out runs/zf5",
        "pretrain imagenet --out runs/overfeat7 --backbone overfeat7 --sizes 224,180 --epochs 90",
        "pretrain voc --out runs/boxes --sizes 112,90 --start normed --epochs 30",
        "pretrain --resume --out runs/zf5",
    )
)
@click.argument("data", required=False, type=path_type)
@option_group(
    "Run",
    click.option("--out", type=path_type, required=True, help="Folder of the classifier to make."),
    click.option("--resume", is_flag=True, help="Go on with the run in --out, with its options."),
    device_option,
    click.option(
        "--memory",
        type=FiniteRange(0),
        default=4.0,
        help="GB of images that are kept; others are read again in each epoch.",
    ),
    threads_option,
)
@option_group(
    "Data",
    click.option("--split", default="trainval", help="Split of DATA."),
    max_side_option,
)
@option_group(
    "Network",
    backbone_option,
    click.option(
        "--levels",
        callback=_parse_numbers,
        help="The pyramid's grids of bins, as 6,3,2,1 (the default) or 4,3,2,1; none: no pyramid, "
        "the last maps are pooled to 6 x 6.",
    ),
    click.option("--fc-width", type=click.IntRange(1), help="Values of fc6 and of fc7: 4096."),
    click.option(
        "--fc-depth", type=click.IntRange(0, 2), help="2: fc6 and fc7, the default; 0: neither."
    ),
)
@option_group(
    "Training",
    click.option(
        "--sizes",
        callback=_parse_numbers,
        help="Sides of the inputs in pixels, joined by commas: 224 by default. Of several each has "
        "an epoch in turn; the first is that of tests.",
    ),
    click.option(
        "--random-sizes",
        is_flag=True,
        default=None,
        help="Any size between the least and the greatest of --sizes instead.",
    ),
    click.option("--epochs", type=click.IntRange(1), help="70; the paper has 90 for all but ZF-5."),
    click.option("--batch", type=click.IntRange(1), help="Images of a step: 128."),
    click.option(
        "--rate",
        type=click.FloatRange(0, min_open=True),
        help="Highest learning rate: 0.01, of the normed start 0.001.",
    ),
    click.option(
        "--start",
        type=click.Choice(["normal", "normed"]),
        help="normal, as the paper: weights at random, the rate a tenth after each plateau, twice. "
        "normed, meant for few images: batch norms while it learns, AdamW, and the rate rises and "
        "falls once.",
    ),
    click.option(
        "--init-stddev",
        type=click.FloatRange(0, min_open=True),
        help="Spread of the weights at the normal start: 0.01.",
    ),
    click.option("--seed", type=click.IntRange(0), help="Seed of all chance."),
)
@click.pass_context
def pretrain(
    context: click.Context,
    data: Path | None,
    out: Path,
    resume: bool,
    device: str,
    memory: float,
    split: str,
    max_side: int,
    **options: Any,
) -> None:
    """Train a classifier of images of any size: the network that a detector's trunk comes from.

    DATA is a folder of images in a folder for each class, as ImageNet is unpacked, with or without
    folders train and val around these; or what `train` takes: its labelled boxes are then the
    images. Processes that torchrun starts share each batch.
    """
    from dataclasses import replace

    from spp_detect.features import choose_device
    from spp_detect.lock import lock_folder
    from spp_detect.training.pretraining_run import PretrainingOptions, PretrainingRun
    from spp_detect.training.run_folder import check_begun, check_new
    from spp_detect.training.team import join_team

    settings = {name: value for name, value in options.items() if value is not None}
    with join_team(choose_device(device)) as team:
        if team.leads:
            check_begun(out) if resume else check_new(out, resumes=True)
        given = PretrainingOptions(str(data.absolute()) if data else "", split, settings, max_side)
        if resume:
            found = PretrainingOptions.read(out)
            changed = replace(found, settings=found.settings | settings)
            given = replace(changed, data=given.data or found.data)
            given = replace(given, split=split) if is_given(context, "split") else given
            given = replace(given, max_side=max_side) if is_given(context, "max_side") else given
        if not given.data:
            raise click.UsageError("no DATA to train on: expected a folder of images or a set")
        run = PretrainingRun(out, given, team, int(memory * 1e9))
        if not team.leads:
            run.train()
            return
        with telling_how_to_go_on(f"go on with --out {out} --resume"), lock_folder(out):
            numbers = run.train()
    print(f"{out}: error {numbers['held_out_error']:.3f} on {numbers['held_out']} held-out images")


@cloup.command(
    epilog=show_examples(
        "classify runs/zf5 photos --out named",
        "classify runs/boxes voc --views 96-on-maps --out named",
    )
)
@model_folder
@click.argument("folder", type=path_type)
@option_group(
    "Images",
    click.option("--split", default="test", help="Split of FOLDER, where its images have labels."),
    click.option(
        "--views",
        type=click.Choice(VIEW_NAMES),
        default="centre",
        help="What is looked at, and the answers averaged: the centre crop; ten crops; the same "
        "ten, or 96 at six scales, as parts of the maps; the full image; or 96 and the full one.",
    ),
    max_side_option,
)
@option_group(
    "Run",
    click.option(
        "--out", type=path_type, help="Folder for classes.json, classes.csv and metrics.json."
    ),
    device_option,
    threads_option,
)
def classify(
    run: Path,
    folder: Path,
    split: str,
    views: str,
    max_side: int,
    out: Path | None,
    device: str,
) -> None:
    """Name what images show; where FOLDER has labels, measure how often that is wrong.

    RUN is a classifier of `pretrain`. An image that cannot be read is named and left out; the exit
    status is then 2.
    """
    from spp_detect.classification.classify import classify as score
    from spp_detect.classification.classify import describe_image, measure_errors
    from spp_detect.classification.images import open_any_images
    from spp_detect.classification.network import load_classifier
    from spp_detect.classification.views import Viewer
    from spp_detect.features import choose_device
    from spp_detect.progress import track

    if out is not None and out.resolve() == run.resolve():
        raise click.UsageError(f"--out {out}: expected another folder than RUN's")
    network = load_classifier(run)
    images, labelled = open_any_images(folder, split, network.classes, max_side)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    viewer = Viewer(network, choose_device(device))
    told: list[dict[str, Any]] = []

    def describe_scored() -> Iterator[tuple[int, NDArray[np.float64]]]:
        scored = score(viewer, images, views, max_side)
        for i, found in track(scored, "classification", len(images)):
            told.append(describe_image(images.pieces[i], found, network.classes))
            yield i, found

    if labelled:
        numbers = measure_errors(describe_scored(), images) | {"views": views, "split": split}
        print(f"top-1 error {numbers['top1_error']:.4f}, top-5 error {numbers['top5_error']:.4f}")
    else:
        for _ in describe_scored():
            best = told[-1]["classes"][0]
            print(f"{told[-1]['file']}: {best['class']} {best['probability']:.2f}")
    if out is not None:
        _write_classes(out, told, numbers if labelled else None)
    if len(told) < len(images) or images.left_out:
        sys.exit(2)


def _write_classes(out: Path, told: list[dict[str, Any]], numbers: dict[str, Any] | None) -> None:
    """Write what was found, and what was measured."""
    import csv
    import io

    from spp_detect.files import write_json, write_text
    from spp_detect.provenance import record_run

    write_json(out / "classes.json", told)
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["file", "box", "class", "probability"])
    for one in told:
        box = " ".join(map(str, one.get("box", ())))
        for best in one["classes"]:
            rows.writerow([one["file"], box, best["class"], best["probability"]])
    write_text(out / "classes.csv", table.getvalue())
    if numbers is not None:
        write_json(out / "metrics.json", numbers | {"record": record_run()})
