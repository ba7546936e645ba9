"""Commands that make, fetch or look at photographs and their windows."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import cloup

from proposals.settings import METHODS, ProposalSettings
from spp_detect.cli.options import (
    device_option,
    labelled_data,
    max_side_option,
    path_type,
    seed_option,
    show_examples,
    threads_option,
)


@cloup.command(epilog=show_examples("demo --out runs/demo"))
@click.option("--out", type=path_type, default=Path("runs/demo"), help="Folder for all of it.")
@device_option
@seed_option
@threads_option
def demo(out: Path, device: str, seed: int) -> None:
    """Make a synthetic set, train on it, evaluate, detect on a folder; no download."""
    from spp_detect.experiments.demo import run_demo
    from spp_detect.features import choose_device

    run_demo(out, choose_device(device), seed)


@cloup.command(epilog=show_examples("download voc2007 --to voc"))
@click.argument("name", type=click.Choice(["voc2007"]))
@click.option("--to", type=path_type, required=True, help="Folder for the data set.")
def download(name: str, to: Path) -> None:
    """Download a public data set and check it."""
    from spp_detect.experiments.download import download_voc

    print(f"{name} is ready, give this folder to train and evaluate: {download_voc(to)}")


@cloup.command(epilog=show_examples("inspect voc", "inspect pets.json --split all"))
@labelled_data
@click.option("--split", help="The only split to look at; all if not given.")
@max_side_option
@threads_option
def inspect(data: Path, split: str | None, max_side: int) -> None:
    """Count what a labelled set holds and list all that is wrong with it.

    Every annotation is read and every photograph decoded. Of each fault it says what `train` and
    `evaluate` make of it, unless they are told --strict. The exit status is 2 where there is any.
    """
    from spp_detect.inspection import inspect_set
    from spp_detect.report.terminal import show_inspection

    found = inspect_set(data, split, max_side)
    show_inspection(found, str(data))
    sys.exit(0 if found.sound else 2)


@cloup.command(
    epilog=show_examples(
        "proposals photos --out windows.npz",
        "proposals voc --split test --method opencv-fast --out windows.npz",
    )
)
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
    from spp_detect.folders import propose_folder
    from spp_detect.report.terminal import show_recall

    settings = ProposalSettings(
        method=method, max_windows=max_windows, seed=seed, edge_model=edge_model
    )
    recall, skipped = propose_folder(folder, split, settings, out, max_side)
    if recall is not None:
        show_recall(recall, f"{method} on {folder}")
    sys.exit(2 if skipped else 0)
