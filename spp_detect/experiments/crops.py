"""Square crops of labelled objects and of background, in a folder for each class."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.ops import box_iou

from data import LabelledSet, read_photo

CONTEXT = 1.4  # side of a crop over the long side of its object
BACKGROUND = "background"

Photo = NDArray[np.uint8]
Square = tuple[float, float, float]  # centre and side


def write_crops(
    dataset: LabelledSet, folder: Path, side: int, copies: int, random: np.random.Generator
) -> None:
    """Write crops as images by class, for `pretrain`; background is a class of its own.

    Each object is cut out several times, moved, turned by quarters, mirrored, and with its colours
    exchanged: shape is what is left.

    Parameters
    ----------
    dataset : LabelledSet
        Photographs with labelled boxes; there are no crops of the difficult ones.
    folder : Path
        Gets a folder for each class.
    side : int
        Of the crops, in pixels.
    copies : int
        Crops of each object, and at most as many of each photograph's background.
    random : numpy.random.Generator
        Draws.
    """
    for name in (*dataset.classes, BACKGROUND):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, photograph in enumerate(dataset):
        photo = read_photo(photograph.path)
        easy = photograph.labels.easy
        squares: list[tuple[str, Square]] = []
        for _ in range(copies):
            for box, label in zip(easy.boxes, easy.classes, strict=True):
                squares.append((dataset.classes[label], _jitter(box, random)))
            background = _pick_background(photo, photograph.labels.boxes, random)
            if background is not None:
                squares.append((BACKGROUND, background))
        for j, (name, square) in enumerate(squares):
            crop = _disguise(_crop_square(photo, square, side), random)
            path = folder / name / f"{i:05d}_{j:03d}.png"
            Image.fromarray(crop).save(path, compress_level=1)


def _disguise(crop: Photo, random: np.random.Generator) -> Photo:
    turned = np.rot90(crop, int(random.integers(4)))[..., random.permutation(3)]
    return np.ascontiguousarray(turned[:, ::-1] if random.random() < 0.5 else turned)


def _jitter(box: NDArray[np.float32], random: np.random.Generator) -> Square:
    """A square around a box, moved and scaled a little."""
    width, height = box[2] - box[0], box[3] - box[1]
    side = max(width, height) * CONTEXT * random.uniform(0.8, 1.25)
    shift_x, shift_y = random.uniform(-0.1, 0.1, 2)
    return (
        float((box[0] + box[2]) / 2 + shift_x * width),
        float((box[1] + box[3]) / 2 + shift_y * height),
        float(side),
    )


def _pick_background(
    photo: Photo, boxes: NDArray[np.float32], random: np.random.Generator
) -> Square | None:
    """A square that overlaps no object by 0.3 or more; None where ten in a row do."""
    height, width = photo.shape[:2]
    for _ in range(10):
        side = float(random.uniform(0.15, 0.7) * min(width, height))
        x, y = float(random.uniform(0, width)), float(random.uniform(0, height))
        square = torch.tensor([[x - side / 2, y - side / 2, x + side / 2, y + side / 2]])
        if not (box_iou(square, torch.from_numpy(boxes)) >= 0.3).any():
            return x, y, side
    return None


def _crop_square(photo: Photo, square: Square, size: int) -> Photo:
    x, y, side = square
    factor = size / side
    move = np.array([[factor, 0, size / 2 - factor * x], [0, factor, size / 2 - factor * y]])
    return np.asarray(
        cv2.warpAffine(photo, move, (size, size), borderMode=cv2.BORDER_REFLECT_101), np.uint8
    )
