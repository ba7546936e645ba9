"""The demo's trunk: that of a classifier of its set's objects, and of background."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from data import LabelledSet
from spp_detect.backbones import Backbone
from spp_detect.classification.config import MINIMUM_SIDE, ClassifierConfig
from spp_detect.classification.images import Images, Piece, hold_out
from spp_detect.training.pretraining import Pretrainer
from spp_detect.training.pretraining_run import NORMED
from spp_detect.training.team import Team

MEMORY = 1_000_000_000
BACKGROUND = "background"
BACKGROUND_SHARE = 1 / 3  # so many of it for each object
CONTEXT = 1.2  # side of a crop over the long side of its object


def pretrain_trunk(
    dataset: LabelledSet, run: Path, epochs: int, seed: int, device: torch.device
) -> tuple[Backbone, float]:
    """Train a small trunk to name square crops around the labelled objects, or background.

    Parameters
    ----------
    dataset : LabelledSet
        Photographs with labelled boxes.
    run : Path
        Gets the classifier.
    epochs : int
        At two sizes in turn.
    seed : int
        Of the crops and of the first weights.
    device : torch.device
        Where to train.

    Returns
    -------
    tuple of Backbone and float
        The trunk, and the error on held-out crops.
    """
    images = cut_squares(dataset, np.random.default_rng(seed))
    config = ClassifierConfig(
        "small5",
        levels=(3, 2, 1),
        fc_depth=0,
        sizes=(96, 64),
        epochs=epochs,
        batch=64,
        start="normed",
        rate=NORMED["rate"],
        decay=NORMED["decay"],
        seed=seed,
    )
    learn, held_out = hold_out(images, config.held_out, seed)
    trainer = Pretrainer(config, learn, held_out, run, Team(device=device), MEMORY)
    backbone = trainer.train().trunk
    return backbone.to("cpu"), trainer.held_out_errors[-1]


def cut_squares(dataset: LabelledSet, random: np.random.Generator) -> Images:
    """List squares around the objects, with room for crops within, and squares of background."""
    pieces, labels = [], []
    for photograph in dataset:
        easy = photograph.labels.easy
        squares = [_surround(box) for box in easy.boxes]
        size = photograph.width, photograph.height
        count = round(len(squares) * BACKGROUND_SHARE)
        squares += [_pick_background(size, photograph.labels.boxes, random) for _ in range(count)]
        labels += [*easy.classes.tolist(), *[len(dataset.classes)] * count]
        for square in squares:
            x1, y1, x2, y2 = square.clip(0, [*size, *size]).round().astype(int).tolist()
            pieces.append(Piece(photograph.path, (x1, y1, x2, y2)))
    classes = (*dataset.classes, BACKGROUND)
    return Images(classes, tuple(pieces), np.array(labels, np.int64))


def _surround(box: NDArray[np.float32]) -> NDArray[np.float64]:
    """A square around a box, from whose middle a crop shows the object and a little more."""
    middle = (box[:2] + box[2:]).astype(float) / 2
    half = float((box[2:] - box[:2]).max()) * CONTEXT * MINIMUM_SIDE / 2
    return np.concatenate([middle - half, middle + half])


def _pick_background(
    size: tuple[int, int], boxes: NDArray[np.float32], random: np.random.Generator
) -> NDArray[np.float64]:
    """A square in a photograph of (width, height) that overlaps no object by 0.3 or more."""
    while True:
        side = random.uniform(0.15, 0.7) * min(size)
        corner = random.uniform(0, np.array(size) - side)
        square = np.concatenate([corner, corner + side])
        overlaps = box_iou(torch.from_numpy(square[None]), torch.from_numpy(boxes).double())
        if not (overlaps >= 0.3).any():
            return square
