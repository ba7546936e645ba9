"""Images with a class each: files in folders by class, or the labelled boxes of photographs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data import (
    DEFAULT_MAX_SIDE,
    DataError,
    ImageSet,
    LabelledSet,
    find_class_folders,
    find_photographs,
    is_labelled,
    list_split_folders,
    open_dataset,
    open_image_folder,
    read_photo,
)
from data.errors import shorten
from data.faults import LEFT_OUT
from spp_detect.opening import tell_what_is_wrong

logger = logging.getLogger(__name__)

# What a split's folder is called where none has its own name: ImageNet is tested on its val.
FOLDER_NAMES = {
    "trainval": ("trainval", "train"),
    "val": ("val", "valid"),
    "test": ("test", "val", "valid"),
}


class Piece(NamedTuple):
    """A file, or what is inside a box of it.

    Attributes
    ----------
    path : Path
        The file.
    box : tuple of int, or None
        x1 y1 x2 y2, half-open pixels; None for the whole.
    """

    path: Path
    box: tuple[int, int, int, int] | None = None

    def cut(self, photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut the piece out of its photograph (H, W, 3)."""
        if self.box is None:
            return photo
        x1, y1, x2, y2 = self.box
        return photo[y1:y2, x1:x2]


@dataclass(frozen=True, eq=False)
class Images:
    """Images of which each shows one class; those of one file stand together.

    Attributes
    ----------
    classes : tuple of str
        The names that labels index.
    pieces : tuple of Piece
        The N images.
    labels : int64 (N,)
        Their classes.
    left_out : int
        Photographs of a labelled set that cannot be opened, which were named.
    """

    classes: tuple[str, ...]
    pieces: tuple[Piece, ...]
    labels: NDArray[np.int64]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.pieces)

    def choose(self, rows: NDArray[np.int64]) -> Images:
        """Choose some of the images, in their order."""
        return Images(self.classes, tuple(self.pieces[i] for i in rows), self.labels[rows])

    def read(self, max_side: int = DEFAULT_MAX_SIDE) -> Iterator[NDArray[np.uint8] | DataError]:
        """Read the images (H, W, 3) in their order, each file once, or the error that it gives."""
        for path, pieces in groupby(self.pieces, key=lambda piece: piece.path):
            photo: NDArray[np.uint8] | DataError
            try:
                photo = read_photo(path, max_side)
            except DataError as error:
                photo = error
            for piece in pieces:
                yield photo if isinstance(photo, DataError) else piece.cut(photo)


def open_images(
    path: Path | str,
    split: str,
    classes: Sequence[str] | None = None,
    max_side: int = DEFAULT_MAX_SIDE,
) -> Images:
    """Open a folder of images by class, or the labelled boxes of a detection set.

    What is wrong with the set is told in a warning.

    Parameters
    ----------
    path : path
        What `open_dataset` reads, whose boxes are then the images; or a folder of a folder for each
        class, or one that holds such folders as train and val.
    split : str
        Of a detection set; a folder named train stands for trainval, one named val for test.
    classes : sequence of str, optional
        The names that are known, whose order is kept.
    max_side : int
        Of a photograph, in pixels.

    Raises
    ------
    DataError
        As `open_dataset` and `open_image_folder`; for a detection set without boxes, or with those
        of one class only.
    """
    path = Path(path)
    if is_labelled(path):
        dataset = open_dataset(path, split, classes, max_side)
        images = cut_boxes(tell_what_is_wrong(dataset, path))
        least = 2 if classes is None else 1
        if len(np.unique(images.labels)) < least:
            raise DataError(
                f"{path}: split {split} has boxes of {len(np.unique(images.labels))} classes; "
                f"expected at least {least}, not counting difficult ones"
            )
        return images
    return list_images(open_image_folder(find_split(path, split), classes))


def open_any_images(
    path: Path | str, split: str, classes: Sequence[str], max_side: int = DEFAULT_MAX_SIDE
) -> tuple[Images, bool]:
    """Open images for a network of known classes, and tell whether they have labels.

    A folder whose own folders are named as classes has; of one without labels all are -1.

    Raises
    ------
    DataError
        As `open_images`, and for a folder without images.
    """
    path = Path(path)
    if is_labelled(path):
        return open_images(path, split, classes, max_side), True
    home = path
    if path.is_dir():
        home = find_split(path, split)
        names = {folder.name for folder in find_class_folders(home)}
        if names & set(classes):
            return open_images(path, split, classes, max_side), True
        if len(names) > 1:
            told = f"{shorten(sorted(names))} are none of the network's classes"
            logger.warning("%s: %s; taken as images without labels", path, told)
    paths = find_photographs(home)
    unknown = np.full(len(paths), -1, np.int64)
    return Images(tuple(classes), tuple(map(Piece, paths)), unknown), False


def find_split(folder: Path, split: str, otherwise: Path | None = None) -> Path:
    """Find a split's folder within a folder of images: itself where it has no splits.

    Raises
    ------
    DataError
        Where it has splits, but not this one, and nothing to take `otherwise`.
    """
    splits = list_split_folders(folder)
    for name in FOLDER_NAMES.get(split, (split,)):
        if name in splits:
            return folder / name
    if splits and otherwise is None:
        raise DataError(f"{folder}: no split {split}; it has {', '.join(splits)}")
    return otherwise or folder


def list_images(found: ImageSet) -> Images:
    """List whole files as images."""
    return Images(found.classes, tuple(map(Piece, found.paths)), found.labels)


def cut_boxes(dataset: LabelledSet) -> Images:
    """List the objects of a detection set that are not difficult, whole pixels around each."""
    pieces, labels = [], []
    for photograph in dataset:
        easy = photograph.labels.easy
        size = np.array([photograph.width, photograph.height])
        starts = np.floor(easy.boxes[:, :2]).clip(0, size - 1)  # of a sliver a pixel is left
        ends = np.ceil(easy.boxes[:, 2:]).clip(starts + 1, size)
        for x1, y1, x2, y2 in np.concatenate([starts, ends], axis=1).astype(int).tolist():
            pieces.append(Piece(photograph.path, (x1, y1, x2, y2)))
        labels.extend(easy.classes.tolist())
    left_out = sum(fault.outcome == LEFT_OUT for fault in dataset.faults)
    return Images(dataset.classes, tuple(pieces), np.array(labels, np.int64), left_out)


def hold_out(images: Images, share: float, seed: int) -> tuple[Images, Images]:
    """Divide images: those to learn from, and about a share of each class held out.

    What comes from one file stays together. What is too little of a class to be a file is held out
    of the next.

    Raises
    ------
    DataError
        Where they are too few to hold any out.
    """
    files = {path: i for i, path in enumerate(dict.fromkeys(p.path for p in images.pieces))}
    groups = np.array([files[piece.path] for piece in images.pieces])
    held = np.zeros(len(files), bool)
    random = np.random.default_rng(seed)
    rarest = _find_rarest(images.labels, groups)
    left = 0.0
    for label in np.unique(rarest):
        own = random.permutation(np.flatnonzero(rarest == label))
        left += share * len(own)
        held[own[: round(left)]] = True
        left -= round(left)
    if not held.any():
        held[random.permutation(len(files))[: max(1, round(share * len(files)))]] = True
    for label in np.setdiff1d(images.labels, images.labels[~held[groups]]):
        held[groups[images.labels == label]] = False  # each class is learnt
    if not held.any():
        raise DataError(f"{len(images)} images: expected more than one file of a class")
    apart = held[groups]
    return images.choose(np.flatnonzero(~apart)), images.choose(np.flatnonzero(apart))


def _find_rarest(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each group's labels the one that is rarest in all."""
    order = np.lexsort((np.bincount(labels)[labels], groups))
    _, first = np.unique(groups[order], return_index=True)
    rarest: NDArray[np.int64] = labels[order[first]]
    return rarest
