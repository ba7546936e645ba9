"""SPP-net's features: maps once per photograph and scale, a pyramid once per window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from spp_detect.features import Extractor, PhotoFeatures, WindowFeatures, send
from spp_detect.projection import (
    choose_scales,
    choose_scales_of,
    clamp_cells,
    clamp_located,
    locate_boxes,
    locate_windows,
    unique_rows,
)
from spp_detect.pyramid import SpatialPyramidPool
from spp_detect.watch import Watch, unwatched

MIN_SIDE = 48  # pixels: the narrowest input of which every trunk makes a map

Maps = dict[str, tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class PhotoMaps(PhotoFeatures):
    """The maps of one photograph.

    Attributes
    ----------
    size : (width, height)
        Of the original photograph in pixels.
    sides : tuple of float
        Short side in pixels of the resized photograph at each scale, before rounding.
    maps : dict of tuples of torch.Tensor
        By the trunk's layer, "" the last, one a scale: float32, or half precision, (H, W, C),
        channels last.
    extractor : SppExtractor
        Locates windows on them and pools.
    """

    size: tuple[int, int]
    sides: tuple[float, ...]
    maps: Maps
    extractor: SppExtractor

    @torch.inference_mode()
    def pool(self, windows: NDArray[np.float32], watch: Watch = unwatched) -> WindowFeatures:
        """Pool windows, float32 (N, 4) in the original photograph, each at its best scale."""
        with watch("pooling"):
            located = self._locate(windows)
            clamped = self._clamp(located)
            same = located if self.extractor.config.distinct == "unclamped" else clamped
            first, inverse = unique_rows(same)
            features = self._pool_located(clamped[first])
        return WindowFeatures(features, first, inverse, windows, self.size)

    def pool_at(self, windows: NDArray[np.float32], scale: int) -> torch.Tensor:
        """Pool windows at one scale, reading only the cells under them: float32 (N, D)."""
        parts = []
        for k, (part, pyramid) in enumerate(
            zip(self.extractor.parts, self.extractor.pyramids, strict=True)
        ):
            one_map = self.maps[part.layer][scale]
            cells = self.project(windows, k, scale)
            parts.append(_pool_cells(pyramid, one_map, cells))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def project(self, windows: NDArray[np.float32], part: int, scale: int) -> NDArray[np.int32]:
        """Project a part's regions of windows onto its map of one scale: cells, int32 (N, 4)."""
        cells = self._locate_part(windows, part, scale)
        return clamp_cells(cells, self._find_map(part, scale).shape[:2])

    def _find_map(self, part: int, scale: int) -> torch.Tensor:
        return self.maps[self.extractor.parts[part].layer][scale]

    def _locate_part(
        self, windows: NDArray[np.float32], part: int, scale: int
    ) -> NDArray[np.int32]:
        """Project a part's regions onto a map without ends: cells, int32 (N, 4)."""
        own, trunk = self.extractor.parts[part], self.extractor.trunk
        (grid,) = [segment.grid for segment in trunk.segments if segment.name == own.layer]
        regions = own.place(windows, self.size)
        rule = self.extractor.config.projection
        return locate_windows(regions, self._find_scaling(scale), grid, rule)

    def _find_scaling(self, scale: int) -> tuple[float, float]:
        """Resized pixels for original ones."""
        side, short_side = self.sides[scale], min(self.size)
        if side in self.extractor.config.scales and short_side > 1:
            return side - 1, short_side - 1  # between pixel centres, as the release rescales
        return side, short_side

    def _locate(self, windows: NDArray[np.float32]) -> NDArray[np.int32]:
        """Scale of each window, then its parts' cells, not clamped: int32 (N, 1 + 4 · parts)."""
        rule = self.extractor.config.scale_rule
        chosen = choose_scales(windows, np.array(self.sides, float), min(self.size), rule)
        located = np.zeros((len(windows), 1 + 4 * len(self.extractor.parts)), np.int32)
        located[:, 0] = chosen
        for scale in range(len(self.sides)):
            rows = chosen == scale
            for k in range(len(self.extractor.parts)):
                cells = self._locate_part(windows[rows], k, scale)
                located[rows, 1 + 4 * k : 5 + 4 * k] = cells
        return located

    def _clamp(self, located: NDArray[np.int32]) -> NDArray[np.int32]:
        """Clamp what `_locate` gives to the maps."""
        clamped = located.copy()
        for scale in range(len(self.sides)):
            rows = located[:, 0] == scale
            for k in range(len(self.extractor.parts)):
                own = slice(1 + 4 * k, 5 + 4 * k)
                size = self._find_map(k, scale).shape[:2]
                clamped[rows, own] = clamp_cells(located[rows, own], size)
        return clamped

    def _pool_located(self, located: NDArray[np.int32]) -> torch.Tensor:
        scales, *cells = np.split(located, range(1, located.shape[1], 4), axis=1)
        sent = [send(torch.from_numpy(one.copy()), self.extractor.device) for one in cells]
        numbers = send(torch.from_numpy(scales[:, 0].copy()), self.extractor.device)
        return self._pool_cells(numbers, sent)

    def _pool_cells(self, scales: torch.Tensor, cells: Sequence[torch.Tensor]) -> torch.Tensor:
        """Pool windows at a scale each, from each part's cells, int32 (N, 4): (N, D)."""
        pooled = []
        for k, (part, own) in enumerate(zip(self.extractor.parts, cells, strict=True)):
            maps = [one.to(self.extractor.device) for one in self.maps[part.layer]]
            pooled.append(self.extractor.pyramids[k].pool_on_maps(maps, scales, own))
        return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)

    @torch.inference_mode()
    def pool_boxes(self, boxes: torch.Tensor) -> torch.Tensor:
        """Pool boxes that lie on the device, float32 (K, 4), each by itself: (K, D).

        As `pool`, but without looking for those that fall on the same cells, for which a GPU would
        have to be waited for. Only windows as they are can be pooled so, no other parts.
        """
        config = self.extractor.config
        scales = choose_scales_of(boxes, self.sides, min(self.size), config.scale_rule)
        (grid,) = [segment.grid for segment in self.extractor.trunk.segments]
        cells = torch.empty_like(boxes, dtype=torch.int32)
        for scale in range(len(self.sides)):
            located = locate_boxes(boxes, self._find_scaling(scale), grid, config.projection)
            own = clamp_located(located, self._find_map(0, scale).shape[:2])
            cells = torch.where(scales[:, None] == scale, own, cells)
        return self._pool_cells(scales, [cells])


class SppExtractor(Extractor):
    """The convolutions once per photograph and scale, the pyramid once per window."""

    @torch.inference_mode()
    def compute_maps(self, photo: NDArray[np.uint8], watch: Watch = unwatched) -> PhotoMaps:
        """Resize a uint8 RGB photograph (H, W, 3) to every scale and compute its maps."""
        height, width = photo.shape[:2]
        with watch("conv"):
            scales = [self._compute(photo, scale) for scale in self.config.scales]
        maps = {layer: tuple(one[layer] for one in scales) for layer in scales[0]}
        return PhotoMaps((width, height), self.sides((width, height)), maps, self)

    def _compute(self, photo: NDArray[np.uint8], scale: int) -> dict[str, torch.Tensor]:
        limit, rounding = self.config.long_side_limit, self.config.long_side_rounding
        size = resized_size((photo.shape[1], photo.shape[0]), scale, limit, rounding)
        # Bilinear without antialiasing, as the release resizes.
        if self.device.type == "cuda":
            sent = send(torch.from_numpy(photo), self.device)
            pixels = self.backbone.normalise_tensor(resize_tensor(sent, size))
        else:
            resized = pad_small(cv2.resize(photo, size, interpolation=cv2.INTER_LINEAR))
            pixels = self.backbone.normalise(resized)
        maps = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        return {layer: one[0].permute(1, 2, 0).contiguous() for layer, one in maps.items()}

    def sides(self, size: tuple[int, int]) -> tuple[float, ...]:
        """Short sides to which a photograph of (width, height) is resized, before rounding."""
        most = self.config.long_side_limit * min(size) / max(size)
        return tuple(min(float(scale), most) for scale in self.config.scales)


def _pool_cells(
    pyramid: SpatialPyramidPool, one_map: torch.Tensor, cells: NDArray[np.int32]
) -> torch.Tensor:
    """Pool windows from as little of a map, which may lie on the disk, as they need: float32."""
    sides = cells[:, 2:] - cells[:, :2] + 1
    if sides.prod(axis=1).sum() > one_map.shape[0] * one_map.shape[1]:
        return pyramid.pool_windows(one_map.float(), torch.from_numpy(cells))
    rows = []
    for left, top, right, bottom in cells.tolist():
        crop = one_map[top : bottom + 1, left : right + 1].float()
        whole = torch.tensor([[0, 0, right - left, bottom - top]], dtype=torch.int32)
        rows.append(pyramid.pool_windows(crop, whole))
    return torch.cat(rows)


def resized_size(
    size: tuple[int, int], short_side: int, long_limit: int, rounding: str = "nearest"
) -> tuple[int, int]:
    """Find the size of a resized photograph.

    Parameters
    ----------
    size : (width, height)
        Of the photograph.
    short_side, long_limit : int
        The short side wanted, or less to keep the long side in bounds.
    rounding : str
        "nearest" or "up", as the release rounds.

    Returns
    -------
    (width, height)
        Each at least 1.
    """
    if rounding == "up":
        # In whole numbers: no rounding error lifts by one what comes out whole.
        bounded = long_limit * min(size) < short_side * max(size)
        wanted, own = (long_limit, max(size)) if bounded else (short_side, min(size))
        return -(-size[0] * wanted // own), -(-size[1] * wanted // own)
    factor = min(short_side / min(size), long_limit / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def resize_tensor(photo: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize a uint8 photograph (H, W, 3) where it lies, and repeat last pixels as `pad_small`.

    Returns
    -------
    float32 (1, 3, H, W)
        Whole numbers, which OpenCV's fixed point misses by one at most.
    """
    pixels = photo.permute(2, 0, 1)[None].float()
    resized = functional.interpolate(pixels, size[::-1], mode="bilinear").round()
    right, below = (max(0, MIN_SIDE - side) for side in size)
    return functional.pad(resized, (0, right, 0, below), mode="replicate")


def pad_small(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Repeat the last pixels of a strip narrower than a trunk's kernels, so that it has a cell."""
    height, width = photo.shape[:2]
    below, right = max(0, MIN_SIDE - height), max(0, MIN_SIDE - width)
    if not (below or right):
        return photo
    padded = cv2.copyMakeBorder(photo, 0, below, 0, right, cv2.BORDER_REPLICATE)
    return np.asarray(padded, np.uint8)
