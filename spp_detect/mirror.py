"""A photograph and its mirror image, windows of both pooled at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.features import PhotoFeatures, WindowFeatures
from spp_detect.watch import Watch, unwatched

Boxes = TypeVar("Boxes", NDArray[np.float32], torch.Tensor)


def mirror_photo(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mirror a uint8 photograph (H, W, 3): left is right."""
    return np.ascontiguousarray(photo[:, ::-1])


def mirror_boxes(boxes: Boxes, width: int) -> Boxes:
    """Mirror boxes (N, 4), of NumPy or torch, with a photograph `width` pixels wide."""
    left, top, right, bottom = boxes.T
    columns = width - right, top, width - left, bottom
    if isinstance(boxes, torch.Tensor):
        return torch.stack(columns, dim=1)
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class BothSides(PhotoFeatures):
    """What is done once for a photograph, and for its mirror image.

    Attributes
    ----------
    size : (width, height)
        Of the photograph in pixels.
    own, mirrored : PhotoFeatures
        The photograph's and its mirror image's.
    """

    size: tuple[int, int]
    own: PhotoFeatures
    mirrored: PhotoFeatures

    def pool(self, windows: NDArray[np.float32], watch: Watch = unwatched) -> WindowFeatures:
        """Pool windows, and the same in the mirror image; see `PhotoFeatures.pool`."""
        turned = self.mirrored.pool(mirror_boxes(windows, self.size[0]), watch)
        return replace(self.own.pool(windows, watch), mirrored=turned)
