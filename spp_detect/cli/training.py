"""Commands that train: a model, a class more, a class less."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup
from cloup import option_group

from proposals.settings import METHODS
from spp_detect.cli.options import (
    backbone_option,
    boxes_option,
    collect_settings,
    config_option,
    device_option,
    fc_width_option,
    is_given,
    labelled_data,
    map_budget_option,
    max_side_option,
    memory_option,
    model_folder,
    needing_ray,
    path_type,
    preset_option,
    set_option,
    show_examples,
    telling_how_to_go_on,
    threads_option,
    train_from_option,
    trunk_option,
    weights_option,
)
from spp_detect.config import EXTRACTORS, FEATURES

if TYPE_CHECKING:  # loaded by the commands themselves, so that help comes at once
    from data import LabelledSet
    from spp_detect.training.assembly import RunOptions
    from spp_detect.training.feature_cache import Resources
    from spp_detect.training.team import Team
    from spp_detect.workers import Workers

ADDED = "added"  # folder of the stages of a class that is added


@cloup.command(
    epilog=show_examples(
        "train voc --out runs/voc07",
        "train voc --out runs/tuned --preset tuned-trunk",
        "train pets.json --out runs/pets --weights trunk.safetensors --classes cat,dog",
        "train --resume --out runs/voc07",
    )
)
@click.argument("data", metavar="[DATA...]", nargs=-1, type=path_type)
@option_group(
    "Run",
    click.option("--out", type=path_type, required=True, help="Model folder to make."),
    click.option(
        "--resume", is_flag=True, help="Go on with the run in --out, with its DATA and its options."
    ),
    device_option,
    map_budget_option,
    memory_option,
    threads_option,
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Train on the CPUs of a Ray cluster, HOST:PORT or auto, all but fine-tuning; local "
        "starts one here. All machines must find DATA and --out at the same path. --threads and "
        "--memory are each worker's; 1 thread if not given.",
    ),
)
@option_group(
    "Data",
    click.option("--split", default="trainval", help="Split of DATA."),
    click.option(
        "--classes",
        help="Classes to learn, joined by commas; all that are labelled if not given.",
    ),
    click.option(
        "--strict",
        is_flag=True,
        help="Refuse a set that has any fault, see `inspect`, or a class without boxes to learn "
        "from.",
    ),
    boxes_option,
    max_side_option,
)
@option_group(
    "Constants",
    preset_option,
    set_option,
    config_option,
    click.option("--seed", type=click.IntRange(0), help="Seed of all chance."),
    help="One that is not given is the preset's. The options below are short for --set.",
)
@option_group(
    "Windows and features",
    weights_option,
    backbone_option,
    click.option("--scales", help="Short sides in pixels, joined by commas."),
    click.option("--proposals", type=click.Choice(METHODS), help="Window method."),
    click.option(
        "--max-windows",
        type=click.IntRange(1),
        help="Most windows of a photograph, here and in detection.",
    ),
    click.option(
        "--extractor",
        type=click.Choice(EXTRACTORS),
        help="SPP-net, or R-CNN with all else equal: one pass of the trunk per window.",
    ),
    click.option(
        "--feature",
        type=click.Choice(FEATURES),
        help="What the SVMs take: pooled maps (pool5) or what fc layers make of them; fc7 with "
        "--finetune, else pool5.",
    ),
    fc_width_option,
)
@option_group(
    "Fine-tuning",
    click.option(
        "--finetune",
        "finetune_iterations",
        type=click.IntRange(0),
        help="Iterations of fine-tuning of the fc layers, 128 windows each.",
    ),
    train_from_option,
)
@click.pass_context
def train(
    context: click.Context,
    data: tuple[Path, ...],
    out: Path,
    resume: bool,
    strict: bool,
    device: str,
    map_budget: float,
    memory: float,
    max_side: int,
    changes: dict[str, Any],
    config: Path | None,
    ray: str | None,
    **options: Any,
) -> None:
    """Train a detector on labelled photographs; stopped anywhere, it goes on with --resume.

    DATA is a VOC folder, photographs with an .xml each, a COCO .json file, or a YOLO folder or its
    .yaml file; several are joined. Processes that torchrun starts fine-tune together.
    """
    from spp_detect.features import choose_device
    from spp_detect.threads import set_threads
    from spp_detect.training.assembly import adopt_classifier, assemble_run, find_options
    from spp_detect.training.feature_cache import Resources
    from spp_detect.training.team import join_team

    named = {name: options.pop(name) for name in ("split", "weights", "boxes", "classes")}
    named |= {"map_budget": map_budget, "memory": memory}
    named["boxes"] = str(named["boxes"]) if named["boxes"] else None
    given: dict[str, Any] = {name: named[name] for name in named if is_given(context, name)}
    settings = collect_settings(options, changes, config)
    settings = adopt_classifier(str(given.get("weights", ""))) | settings
    if "preset" in settings:
        given["preset"] = settings.pop("preset")
    given["settings"] = settings
    if data:
        given["data"] = [str(one.absolute()) for one in data]

    if ray is not None:
        if device == "cuda":
            raise click.UsageError("--device cuda: expected none with --ray")
        device, out = "cpu", out.absolute()
        if not is_given(context, "threads"):
            set_threads(1)
    resources = Resources(choose_device(device), max_side=max_side)
    with join_team(resources.device) as team:
        resources = replace(resources, device=team.device)
        if team.leads:
            _train(out, given, resources, team, ray, resume=resume, strict=strict)
            team.tell(True)  # that it is at its end
            return
        if team.hear():  # once the first process fine-tunes
            places = {name: place for name, place in given.items() if name in ("data", "boxes")}
            asked = find_options(out, places)
            dataset, _ = _open_training_set(out, asked, max_side, strict=strict)
            assemble_run(out, dataset, asked, replace(resources, map_budget=0), team).help()
        team.hear()  # torchrun lets no machine go before the others


def _train(
    out: Path,
    given: dict[str, Any],
    resources: Resources,
    team: Team,
    ray: str | None,
    *,
    resume: bool,
    strict: bool,
) -> None:
    """Begin a run by the options given, or go on with it, to its end."""
    from spp_detect.lock import lock_folder
    from spp_detect.trained_on import save_split
    from spp_detect.training.assembly import assemble_run, find_options
    from spp_detect.training.run_folder import check_begun, check_new

    if resume:
        check_begun(out)
    else:
        check_new(out, resumes=True)
    asked = find_options(out, given)
    if not asked.data:
        raise click.UsageError("no DATA to train on: expected at least one labelled set")
    budgets = int(asked.map_budget * 1e9), int(asked.memory * 1e9)
    resources = replace(resources, map_budget=budgets[0], memory=budgets[1])
    dataset, held_out = _open_training_set(out, asked, resources.max_side, strict=strict)
    if (out / "metrics.json").is_file():
        # Refuses another set or other constants than it was trained with.
        finished = assemble_run(out, dataset, asked, resources, team)
        finished.begin()
        finished.remove_maps()
        team.tell(False)
        print(f"{out}: trained already")
        return
    with _find_workers(ray) as workers:
        run = assemble_run(out, dataset, asked, resources, team, workers)
        with telling_how_to_go_on(f"go on with --out {out} --resume"), lock_folder(out):
            run.begin()  # refuses what does not go on with an earlier start, before it writes
            if held_out is not None:
                save_split(held_out, out)
            of_each_folder = {one.path.parent: one.path for one in dataset}
            workers.check_files([out / "run.json", *of_each_folder.values()])
            run.train()
    print(f"{out}: trained on {len(dataset)} photographs")


@contextmanager
def _find_workers(ray: str | None) -> Iterator[Workers]:
    """Join a Ray cluster where there is an address of one; else this process works alone."""
    from spp_detect.threads import get_threads
    from spp_detect.workers import Workers

    if ray is None:
        yield Workers()
        return
    with needing_ray():
        from spp_detect.cluster.workers import join_workers
    with join_workers(ray, get_threads()) as workers:
        yield workers


def _open_training_set(
    out: Path, asked: RunOptions, max_side: int, *, strict: bool
) -> tuple[LabelledSet, LabelledSet | None]:
    """Open what a run learns from, and what is held out where its sets have no splits."""
    from data import UNSPLIT, join_sets
    from spp_detect.opening import open_checked
    from spp_detect.trained_on import hold_out
    from spp_detect.training.run import leave_out_without_positives

    classes = asked.classes.split(",") if asked.classes else None
    paths = [Path(one) for one in asked.data]
    sets = [open_checked(one, asked.split, classes, max_side, strict=strict) for one in paths]
    dataset, held_out = join_sets(sets), None
    if asked.split != UNSPLIT and all(one.split == UNSPLIT for one in sets):
        dataset, held_out = hold_out(dataset, out, asked.settings.get("seed", 0))
    if classes is None and not strict:
        dataset = leave_out_without_positives(dataset)
    return dataset, held_out


@cloup.command(
    "add-class",
    epilog=show_examples("add-class runs/voc07 zoo --class zebra --out runs/voc07_and_zebra"),
)
@model_folder
@labelled_data
@option_group(
    "Class",
    click.option("--class", "name", required=True, help="Its name in DATA."),
    click.option("--split", default="trainval", help="Split of DATA."),
    click.option(
        "--negatives",
        type=path_type,
        help="Folder of photographs that show no object of the class.",
    ),
    max_side_option,
)
@option_group(
    "Run",
    click.option("--out", type=path_type, required=True, help="Model folder to make."),
    trunk_option,
    device_option,
    map_budget_option,
    memory_option,
    threads_option,
)
def add_class(
    run: Path,
    data: Path,
    name: str,
    split: str,
    negatives: Path | None,
    out: Path,
    weights: str | None,
    device: str,
    map_budget: float,
    memory: float,
    max_side: int,
) -> None:
    """Teach RUN a class more: one SVM and one regressor on its features; the others stay.

    Boxes of the class in DATA are positives, all else there and in --negatives is not. The same
    command goes on where it was stopped.
    """
    from data import find_photographs, select_classes
    from spp_detect.detector import Detector
    from spp_detect.features import choose_device
    from spp_detect.lock import lock_folder
    from spp_detect.opening import open_checked
    from spp_detect.trained_on import carry_over
    from spp_detect.training import added_class
    from spp_detect.training.feature_cache import Resources
    from spp_detect.training.run_folder import check_new

    stages = out / ADDED
    if not stages.is_dir():
        check_new(out)
    detector = Detector.load(run, device, weights)
    added_class.check_addable(detector, name)
    dataset = select_classes(open_checked(data, split, None, max_side), [name])
    if negatives is not None:
        paths = find_photographs(negatives)
        dataset = added_class.add_negatives(dataset, paths, max_side)
    budgets = int(map_budget * 1e9), max_side, int(memory * 1e9)
    resources = Resources(choose_device(device), *budgets)
    with telling_how_to_go_on("go on with the same command"), lock_folder(stages):
        added_class.add_class(detector, dataset, stages, resources).save(out)
    carry_over([run], out, dataset)
    shutil.rmtree(stages)
    print(f"{out}: {run} and {name}, from {len(dataset)} photographs")


@cloup.command(
    "remove-class",
    epilog=show_examples("remove-class runs/voc07_and_zebra --class zebra --out runs/without"),
)
@model_folder
@click.option("--class", "name", required=True, help="Its name.")
@click.option("--out", type=path_type, required=True, help="Model folder to make.")
@trunk_option
@threads_option
def remove_class(run: Path, name: str, out: Path, weights: str | None) -> None:
    """Make a model of RUN without one of its classes; the others stay."""
    from spp_detect.detector import Detector
    from spp_detect.trained_on import carry_over
    from spp_detect.training import added_class
    from spp_detect.training.run_folder import check_new

    check_new(out)
    added_class.remove_class(Detector.load(run, "cpu", weights), name).save(out)
    carry_over([run], out)
    print(f"{out}: {run} without {name}")
