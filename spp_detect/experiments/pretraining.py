"""Training a trunk from scratch as a classifier of several input sizes (paper, section 2.3)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torchvision.ops import box_iou

from data import LabelledSet, read_photo
from spp_detect.backbones import Backbone
from spp_detect.progress import track
from spp_detect.pyramid import SpatialPyramidPool

SIZES = (64, 96)  # one after the other, the weights shared: the pyramid takes any
BATCH = 64
BACKGROUND_SHARE = 0.25
CONTEXT = 1.2  # side of a crop over the long side of its object
PEAK_RATE = 4e-3
WEIGHT_DECAY = 0.02


def pretrain_trunk(
    backbone: Backbone, dataset: LabelledSet, steps: int, seed: int, device: torch.device
) -> float:
    """Train a trunk to name square crops around the labelled objects, or background.

    The classifier on top is a pyramid and one linear layer, thrown away afterwards. AdamW with one
    cycle of the rate; crops are moved, turned, mirrored, and their colours exchanged.

    Parameters
    ----------
    backbone : Backbone
        The trunk; its weights change in place.
    dataset : LabelledSet
        Photographs with labelled boxes.
    steps : int
        Batches of 64 crops.
    seed : int
        Of the crops and of the classifier's first weights.
    device : torch.device
        Where to train.

    Returns
    -------
    float
        Mean accuracy over the last tenth of the steps, on crops before they are learnt from.
    """
    torch.manual_seed(seed)
    crops = _CropSource(dataset, np.random.default_rng(seed))
    pyramid = SpatialPyramidPool((3, 2, 1))
    classifier = nn.Linear(backbone.channels * pyramid.bins, len(dataset.classes) + 1)
    model = nn.Sequential(backbone, pyramid, nn.Dropout(0.3), classifier).to(device)
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, PEAK_RATE, total_steps=steps)
    model.train()
    correct = []
    for step in track(range(steps), "trunk"):
        photos, labels = crops.draw(BATCH, SIZES[step % len(SIZES)])
        pixels = torch.cat([backbone.normalise(photo) for photo in photos]).to(device)
        targets = torch.from_numpy(labels).to(device)
        scores = model(pixels.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(scores, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        correct.append((scores.argmax(1) == targets).float().mean().item())
    backbone.eval()
    return float(np.mean(correct[-max(1, steps // 10) :]))


class _CropSource:
    """Draws crops of objects and of background from photographs kept in memory."""

    def __init__(self, dataset: LabelledSet, random: np.random.Generator) -> None:
        self.random = random
        self.photos = [read_photo(photograph.path) for photograph in dataset]
        self.boxes = [photograph.labels.boxes for photograph in dataset]
        self.background = len(dataset.classes)
        self.objects = [
            (i, box, int(label))
            for i, photograph in enumerate(dataset)
            for box, label in zip(
                photograph.labels.easy.boxes, photograph.labels.easy.classes, strict=True
            )
        ]

    def draw(self, count: int, size: int) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
        """Draw `count` crops of size × size pixels and their classes; the last is background."""
        crops, labels = [], []
        for _ in range(count):
            if self.random.random() < BACKGROUND_SHARE:
                i, square = self._pick_background()
                label = self.background
            else:
                i, box, label = self.objects[self.random.integers(len(self.objects))]
                square = self._jitter(box)
            crop = _crop_square(self.photos[i], square, size)
            crops.append(self._disguise(crop))
            labels.append(label)
        return crops, np.array(labels, np.int64)

    def _disguise(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn a crop by quarters, mirror it, exchange its colours: shape is what is left."""
        crop = np.rot90(crop, int(self.random.integers(4)))[..., self.random.permutation(3)]
        return np.ascontiguousarray(crop[:, ::-1] if self.random.random() < 0.5 else crop)

    def _jitter(self, box: NDArray[np.float32]) -> tuple[float, float, float]:
        """Centre and side of a square around a box, moved and scaled a little."""
        width, height = box[2] - box[0], box[3] - box[1]
        side = max(width, height) * CONTEXT * self.random.uniform(0.8, 1.25)
        shift_x, shift_y = self.random.uniform(-0.12, 0.12, 2)
        return (
            float((box[0] + box[2]) / 2 + shift_x * width),
            float((box[1] + box[3]) / 2 + shift_y * height),
            float(side),
        )

    def _pick_background(self) -> tuple[int, tuple[float, float, float]]:
        """A photograph and a square in it that overlaps no object by 0.3 or more."""
        while True:
            i = int(self.random.integers(len(self.photos)))
            height, width = self.photos[i].shape[:2]
            side = float(self.random.uniform(0.15, 0.7) * min(width, height))
            x, y = self.random.uniform(0, width), self.random.uniform(0, height)
            square = [[x - side / 2, y - side / 2, x + side / 2, y + side / 2]]
            overlap = box_iou(torch.tensor(square), torch.from_numpy(self.boxes[i]))
            if not (overlap >= 0.3).any():
                return i, (float(x), float(y), side)


def _crop_square(
    photo: NDArray[np.uint8], square: tuple[float, float, float], size: int
) -> NDArray[np.uint8]:
    x, y, side = square
    factor = size / side
    move = np.array([[factor, 0, size / 2 - factor * x], [0, factor, size / 2 - factor * y]])
    return np.asarray(
        cv2.warpAffine(photo, move, (size, size), borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )
