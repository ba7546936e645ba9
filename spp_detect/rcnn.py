"""R-CNN's features: each window cropped, warped, one forward pass of its own (arXiv 1311.2524)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from spp_detect.backbones import Backbone
from spp_detect.config import Config
from spp_detect.features import Extractor, PhotoFeatures, WindowFeatures, round_half, send
from spp_detect.out_of_memory import work_in_batches
from spp_detect.projection import unique_rows
from spp_detect.watch import Watch, unwatched

CROP_SIDE = 224  # pixels: the side of the trunks' training crops
CONTEXT = 16  # pixels of the warped crop around the window (R-CNN, appendix A)
# Crops of one forward pass. A GPU wants many; a core is fastest while they stay in its cache.
BATCHES = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True)
class WarpSource(PhotoFeatures):
    """What the crops of one photograph are warped from.

    Attributes
    ----------
    size : (width, height)
        Of the photograph in pixels.
    pixels : float32 (1, 3, H, W)
        Normalised, on the device.
    extractor : RcnnExtractor
        Computes the crops' maps.
    rounded : bool
        Whether features are those that a cache would hold, to the bit.
    """

    size: tuple[int, int]
    pixels: torch.Tensor
    extractor: RcnnExtractor
    rounded: bool = False

    @torch.inference_mode()
    def pool(self, windows: NDArray[np.float32], watch: Watch = unwatched) -> WindowFeatures:
        """Pool windows, float32 (N, 4) in the photograph, each from a map of its own."""
        with watch("conv"):
            first, inverse = unique_rows(windows)
            features = self.compute(windows[first], watch)
        return WindowFeatures(features, first, inverse, windows, self.size)

    @torch.inference_mode()
    def compute(self, windows: NDArray[np.float32], watch: Watch = unwatched) -> torch.Tensor:
        """Compute the features of distinct windows: (N, D), in half precision if rounded."""
        extractor = self.extractor
        parts = [
            self._pool_regions(torch.from_numpy(part.place(windows, self.size)), k, watch)
            for k, part in enumerate(extractor.parts)
        ]
        features = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return round_half(features) if self.rounded else features

    def _pool_regions(self, regions: torch.Tensor, part: int, watch: Watch) -> torch.Tensor:
        """Compute a part's maps of regions, each by itself, and pool them whole."""
        extractor = self.extractor
        layer, pyramid = extractor.parts[part].layer, extractor.pyramids[part]
        distinct = send(regions, extractor.device)
        features: torch.Tensor | None = None

        def pool_batch(start: int, size: int) -> None:
            nonlocal features
            batch = distinct[start : start + size]
            count = len(batch)
            if self.rounded:
                # A convolution may round otherwise in a batch of another size.
                batch = torch.cat([batch, batch[-1:].expand(size - count, 4)])
            with watch("warp"):
                crops = warp_windows(self.pixels, batch)
            maps = extractor.trunk(crops)[layer]
            with watch("pooling"):
                pooled = pyramid(maps)[:count]
            if features is None:
                features = pooled.new_empty((len(distinct), extractor.lengths[part]))
            features[start : start + count] = pooled

        least = extractor.batch if self.rounded else 1
        extractor.batch = work_in_batches(pool_batch, len(distinct), extractor.batch, least)
        none = torch.empty((0, extractor.lengths[part]), device=extractor.device)
        return none if features is None else features


class RcnnExtractor(Extractor):
    """The convolutions once per window, then the same pyramid: R-CNN beside SppExtractor.

    Scales and rules of the configuration have no meaning here.

    Attributes
    ----------
    batch : int
        Crops of one forward pass.
    """

    def __init__(self, backbone: Backbone, config: Config, device: torch.device) -> None:
        super().__init__(backbone, config, device)
        self.batch = BATCHES[device.type]

    @torch.inference_mode()
    def compute_maps(self, photo: NDArray[np.uint8], watch: Watch = unwatched) -> WarpSource:
        """Normalise a uint8 RGB photograph (H, W, 3); the maps wait for the windows."""
        height, width = photo.shape[:2]
        with watch("conv"):
            pixels = send(self.backbone.normalise(photo), self.device)
        return WarpSource((width, height), pixels, self)


def warp_windows(pixels: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Crop windows with their context and warp each to a square, whatever its shape.

    The window itself fills the middle of the crop, all but `CONTEXT` pixels on each side. What
    lies outside the photograph is zero, the mean colour of normalised pixels.

    Parameters
    ----------
    pixels : float32 (1, 3, H, W)
        Normalised.
    windows : float32 (N, 4)
        Half-open pixels, same device.

    Returns
    -------
    float32 (N, 3, CROP_SIDE, CROP_SIDE)
        Bilinear, channels last in memory.
    """
    size = windows.new_tensor([pixels.shape[3], pixels.shape[2]])
    # affine_grid's coordinates run from -1 to 1 between the outer edges of crop and photograph.
    middle = (windows[:, :2] + windows[:, 2:]) / size - 1
    reach = (windows[:, 2:] - windows[:, :2]) / size * (CROP_SIDE / (CROP_SIDE - 2 * CONTEXT))
    affine = torch.cat([torch.diag_embed(reach), middle[:, :, None]], dim=2)
    shape = [len(windows), 3, CROP_SIDE, CROP_SIDE]
    grid = functional.affine_grid(affine, shape, align_corners=False)
    photos = pixels.expand(len(windows), -1, -1, -1)
    crops = functional.grid_sample(photos, grid, padding_mode="zeros", align_corners=False)
    return crops.contiguous(memory_format=torch.channels_last)
