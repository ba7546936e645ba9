"""The command that puts features of whole photographs to other tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup
from cloup import option_group

from spp_detect.cli.options import (
    backbone_option,
    device_option,
    labelled_data,
    max_side_option,
    path_type,
    seed_option,
    show_examples,
    threads_option,
    weights_option,
)
from spp_detect.config import Config

if TYPE_CHECKING:  # loaded by the commands themselves, so that help comes at once
    from data import LabelledSet
    from spp_detect.classification.description import Description
    from spp_detect.classification.image_features import ImageFeature

OF_TRUNKS = ("conv4", "conv5", "pool5", "spp", "fc6", "fc7")
OF_WORDS = ("words", "pyramid-words")
VIEWS = ("full", "crop", "warp")
PARTS = ("train", "val", "test")


@cloup.command(
    epilog=show_examples(
        "transfer voc --weights trunk.safetensors --out runs/transfer",
        "transfer voc --features pyramid-words --words 50",
        "transfer pets_by_class --train-images 2 --splits 3 --view warp",
    )
)
@labelled_data
@option_group(
    "Features",
    click.option(
        "--features",
        type=click.Choice([*OF_TRUNKS, *OF_WORDS]),
        default="spp",
        help="A trunk's maps as they are (conv4, conv5), in 6×6 bins (pool5) or its pyramid (spp); "
        "a classifier's fc layers; or what came before: visual words of SIFT, counted in a bag or "
        "in a pyramid.",
    ),
    click.option("--view", type=click.Choice(VIEWS), default="full", help="Of the photograph."),
    click.option(
        "--size",
        type=click.IntRange(48, 6000),
        default=224,
        help="Short side of the view in pixels.",
    ),
    click.option(
        "--words", type=click.IntRange(2), default=200, help="How many, where words are counted."
    ),
)
@option_group("Trunk", backbone_option, weights_option)
@option_group(
    "Class folders",
    click.option(
        "--train-images",
        type=click.IntRange(2),
        default=30,
        help="Of each class; at most 50 of the others are tested.",
    ),
    click.option("--splits", type=click.IntRange(1), default=10, help="Random ones."),
)
@option_group(
    "Run",
    click.option("--out", type=path_type, help="Folder for transfer.json."),
    seed_option,
    device_option,
    max_side_option,
    threads_option,
)
def transfer(
    data: Path,
    features: str,
    view: str,
    size: int,
    words: int,
    backbone: str | None,
    weights: str,
    train_images: int,
    splits: int,
    out: Path | None,
    seed: int,
    device: str,
    max_side: int,
) -> None:
    """Put features of whole photographs to another task, by linear SVMs.

    DATA is a labelled set with the splits train, val and test, as VOC's: its classes are learnt
    from train and val, C is chosen on val, AP is measured on test. Or it is a folder with a
    subfolder of photographs for each class, as Caltech-101: accuracy is measured on several random
    splits.
    """
    from data import is_labelled
    from spp_detect.classification.transfer import transfer_to_folders, transfer_to_labels
    from spp_detect.files import write_json
    from spp_detect.opening import open_checked_folder
    from spp_detect.provenance import record_run
    from spp_detect.report.terminal import show_transfer

    start = time.perf_counter()
    settings: dict[str, Any] = {"features": features, "view": view, "size": size, "seed": seed}
    feature = None
    if features in OF_WORDS:
        settings |= {"words": words}
    else:
        feature, loaded = _make_feature(backbone, weights, settings, device)
        settings |= {"backbone": feature.backbone.name, "weights": loaded}

    def describe(paths: Sequence[Path]) -> Description:
        return _describe(paths, feature, settings, max_side)

    if is_labelled(data):
        parts = _open_parts(data, max_side)
        result = transfer_to_labels(parts, describe, max_side)
    else:
        images = open_checked_folder(data, max_side)
        result = transfer_to_folders(images, describe, seed, train_images, splits, max_side)
    show_transfer(result, f"{features}, {view} at {size}")
    if out is not None:
        seconds = round(time.perf_counter() - start, 1)
        result = settings | result | {"seconds": seconds, "record": record_run()}
        write_json(out / "transfer.json", result)
        print(out / "transfer.json")


def _make_feature(
    name: str | None, weights: str, settings: dict[str, Any], device: str
) -> tuple[ImageFeature, str]:
    """Make a feature of a trunk or of a classifier, and name the weights."""
    import torch

    from spp_detect.backbones import build_backbone, load_weights
    from spp_detect.classification.image_features import ImageFeature, list_fc_features
    from spp_detect.classification.network import is_classifier, load_classifier
    from spp_detect.features import choose_device

    where = choose_device(device)
    asked = settings["features"], settings["view"], settings["size"]
    if is_classifier(weights):
        network = load_classifier(weights).to(where)
        if name not in (None, network.trunk.name):
            raise click.UsageError(
                f"--backbone {name}: expected none, or {network.trunk.name} as {weights} has"
            )
        fc = list_fc_features(network, settings["view"], settings["size"])
        return ImageFeature(network.trunk, *asked, where, fc), Path(weights).name
    torch.manual_seed(settings["seed"])
    trunk = build_backbone(name or Config().backbone)
    feature = ImageFeature(trunk, *asked, where)  # first: a wrong feature needs no weights
    return feature, load_weights(trunk, weights)


def _describe(
    paths: Sequence[Path], feature: ImageFeature | None, settings: dict[str, Any], max_side: int
) -> Description:
    from spp_detect.classification.description import Description, multiply
    from spp_detect.classification.visual_words import describe_by_words, learn_words, make_view

    if feature is not None:
        return Description(feature, multiply)
    view = make_view(settings["view"], settings["size"])
    words = learn_words(paths, view, settings["words"], settings["seed"], max_side)
    return describe_by_words(words, view, pyramid=settings["features"] == "pyramid-words")


def _open_parts(data: Path, max_side: int) -> dict[str, LabelledSet]:
    from data import DataError, list_splits, open_dataset
    from spp_detect.opening import open_checked

    there = list_splits(data)
    if not {*PARTS} <= {*there}:
        raise DataError(f"{data}: has the splits {', '.join(there)}; expected {', '.join(PARTS)}")
    classes = open_dataset(data, "trainval", max_side=max_side).classes
    return {name: open_checked(data, name, classes, max_side) for name in PARTS}
