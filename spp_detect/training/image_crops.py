"""Crops that a classifier learns from: prepared images in memory, cut and mirrored by chance."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from data import DEFAULT_MAX_SIDE, DataError, read_photo
from spp_detect.classification.config import MINIMUM_SIDE
from spp_detect.classification.images import Images
from spp_detect.classification.views import CENTRE_AND_CORNERS, list_views

logger = logging.getLogger(__name__)

IMAGES_OF_COLOURS = 1000  # from which the principal components of colours are measured
THUMBNAIL = 32

Photo = NDArray[np.uint8]


class PreparedImages:
    """Images at the size that training needs, read again only where the memory does not suffice.

    An image that cannot be read is named in a warning, once, and is None.

    Parameters
    ----------
    images : Images
        Which.
    side : float
        Short side in pixels down to which larger images are shrunk.
    memory : int
        Bytes that they may take.
    max_side : int
        Of a photograph, in pixels.
    """

    def __init__(
        self, images: Images, side: float, memory: int, max_side: int = DEFAULT_MAX_SIDE
    ) -> None:
        self.images = images
        self.side = round(side)
        self.max_side = max_side
        self._left = memory
        self._kept: dict[int, Photo | None] = {}
        self._lock = threading.Lock()
        self._of_file: dict[Path, list[int]] = defaultdict(list)
        for i, piece in enumerate(images.pieces):
            self._of_file[piece.path].append(i)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, i: int) -> Photo | None:
        """Read image i, uint8 (H, W, 3), and keep all that are cut out of the same file."""
        if i in self._kept:
            return self._kept[i]
        path = self.images.pieces[i].path
        try:
            photo = read_photo(path, self.max_side)
        except DataError as error:
            self._give_up(path, error)
            return None
        asked = self._shrink(i, photo)
        for one in self._of_file[path] if self._left > asked.nbytes else ():
            piece = asked if one == i else self._shrink(one, photo)
            with self._lock:
                if one not in self._kept and piece.nbytes <= self._left:
                    self._left -= piece.nbytes
                    self._kept[one] = piece
        return asked

    def _shrink(self, i: int, photo: Photo) -> Photo:
        piece = self.images.pieces[i].cut(photo)
        height, width = piece.shape[:2]
        factor = self.side / min(height, width)
        if factor >= 1:
            return piece.copy()  # lets go of the whole photograph
        size = round(width * factor), round(height * factor)
        return np.asarray(cv2.resize(piece, size, interpolation=cv2.INTER_AREA), np.uint8)

    def _give_up(self, path: Path, error: DataError) -> None:
        with self._lock:
            if self._of_file[path][0] not in self._kept:
                logger.warning("%s; left out", error)
            self._kept |= dict.fromkeys(self._of_file[path])


def draw_crop(
    image: Photo, size: int, random: np.random.Generator, *, anywhere: bool = False
) -> Photo:
    """Draw a square crop, mirrored or not, uint8 (size, size, 3).

    Its side is 224/256 of the image's short side; it lies in the centre or in one of the corners as
    in the paper, section 3.1.1, or anywhere.
    """
    height, width = image.shape[:2]
    side = max(1, round(min(height, width) / MINIMUM_SIDE))
    if anywhere:
        x, y = random.integers(width - side + 1), random.integers(height - side + 1)
    else:
        places = list_views((width, height), side)[:CENTRE_AND_CORNERS]
        x, y = places[random.integers(len(places)), :2].astype(int).tolist()
    crop = cv2.resize(image[y : y + side, x : x + side], (size, size))
    return np.asarray(crop[:, ::-1] if random.random() < 0.5 else crop, np.uint8)


def measure_colours(prepared: PreparedImages, seed: int) -> NDArray[np.float64]:
    """Measure how colours vary: principal components of RGB pixels times their deviations, (3, 3).

    Krizhevsky et al., NIPS 2012, section 4.1.
    """
    random = np.random.default_rng(seed)
    count = min(IMAGES_OF_COLOURS, len(prepared))
    chosen = random.permutation(len(prepared))[:count].tolist()
    images = [image for image in map(prepared.read, chosen) if image is not None]
    thumbnails = [cv2.resize(image, (THUMBNAIL, THUMBNAIL)).reshape(-1, 3) for image in images]
    if not thumbnails:
        return np.zeros((3, 3))
    variances, vectors = np.linalg.eigh(np.cov(np.concatenate(thumbnails).T.astype(float)))
    components: NDArray[np.float64] = vectors * np.sqrt(np.maximum(variances, 0))
    return components


class CropSource:
    """Draws batches; the same for the same epoch and images, whoever asks.

    Parameters
    ----------
    prepared : PreparedImages
        The images.
    colour : float
        Spread of the change along the components of colours.
    seed : int
        Of all chance.
    anywhere : bool
        Whether crops lie anywhere, see `draw_crop`.
    """

    def __init__(
        self, prepared: PreparedImages, colour: float, seed: int, *, anywhere: bool
    ) -> None:
        self.prepared = prepared
        self.anywhere = anywhere
        self.seed = seed
        self.changes = colour * measure_colours(prepared, seed)
        self._last = -1, np.zeros(0, np.int64)  # the epoch asked for last, and its order

    def order(self, epoch: int) -> NDArray[np.int64]:
        """All images in the order of an epoch: int64 (N,)."""
        known, order = self._last
        if known != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.prepared))
            self._last = epoch, order
        return order

    def draw(
        self, epoch: int, rows: NDArray[np.int64], size: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw a crop of each of some images.

        Returns
        -------
        pixels : uint8 (N, 3, size, size)
            RGB, channels last in memory; without the images that cannot be read.
        shifts : float32 (N, 3)
            What is added to an image's colours.
        labels : int64 (N,)
            Their classes.
        """
        crops, shifts, labels = [], [], []
        for i in rows.tolist():
            image = self.prepared.read(i)
            if image is None:
                continue
            random = np.random.default_rng((self.seed, epoch, i))
            crops.append(draw_crop(image, size, random, anywhere=self.anywhere))
            shifts.append(self.changes @ random.standard_normal(3))
            labels.append(self.prepared.images.labels[i])
        added = np.array(shifts, np.float32).reshape(-1, 3)
        known = torch.from_numpy(np.array(labels, np.int64))
        return join_images(crops, size), torch.from_numpy(added), known


def join_images(images: list[Photo], size: int) -> torch.Tensor:
    """Join images (size, size, 3): uint8 (N, 3, size, size), channels last in memory."""
    pixels = np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
