"""R-CNN's features: each window cropped, warped, one forward pass of its own (arXiv 1311.2524)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from spp_detect.features import Extractor, WindowFeatures, round_half
from spp_detect.projection import unique_rows

CROP_SIDE = 224  # pixels: the side of the trunks' training crops
CONTEXT = 16  # pixels of the warped crop around the window (R-CNN, appendix A)
# Crops of one forward pass. A GPU wants many; a core is fastest while they stay in its cache.
BATCHES = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True)
class WarpSource:
    """What the crops of one photograph are warped from.

    Attributes
    ----------
    size : (width, height) of the photograph in pixels.
    pixels : float32 (1, 3, H, W), normalised, on the device.
    rounded : whether features are those that `CropFeatures` would hold, to the bit.
    """

    size: tuple[int, int]
    pixels: torch.Tensor
    rounded: bool = False


@dataclass(frozen=True)
class CropFeatures:
    """The features of one photograph's windows, computed before.

    Attributes
    ----------
    size : (width, height) of the photograph in pixels.
    windows : float32 (U, 4), each once.
    features : float16 (U, D).
    """

    size: tuple[int, int]
    windows: NDArray[np.float32]
    features: torch.Tensor

    def find(self, windows: NDArray[np.float32]) -> torch.Tensor:
        """Look up windows, float32 (N, 4): float16 (N, D); KeyError for one that is not there."""
        rows = {tuple(window): row for row, window in enumerate(self.windows.tolist())}
        return self.features[[rows[tuple(window)] for window in windows.tolist()]]


class RcnnExtractor(Extractor):
    """The convolutions once per window, then the same pyramid: R-CNN beside FeatureExtractor.

    Scales and rules of the configuration have no meaning here.
    """

    @torch.inference_mode()
    def compute_maps(self, photo: NDArray[np.uint8]) -> WarpSource:
        """Normalise a uint8 RGB photograph (H, W, 3); the maps wait for the windows."""
        height, width = photo.shape[:2]
        return WarpSource((width, height), self.backbone.normalise(photo).to(self.device))

    @torch.inference_mode()
    def pool(
        self, source: WarpSource | CropFeatures, windows: NDArray[np.float32]
    ) -> WindowFeatures:
        """Pool windows, float32 (N, 4) in the photograph: compute their maps, or look them up."""
        first, inverse = unique_rows(windows)
        if isinstance(source, CropFeatures):
            features = source.find(windows[first]).to(self.device)
        else:
            features = self._compute(source, windows[first])
        return WindowFeatures(features, first, inverse)

    @torch.inference_mode()
    def keep(self, source: WarpSource, windows: NDArray[np.float32]) -> CropFeatures:
        """Pool windows, float32 (N, 4), for use again and again."""
        source = replace(source, rounded=True)
        windows = windows[unique_rows(windows)[0]]
        return CropFeatures(source.size, windows, self._compute(source, windows).cpu())

    def _compute(self, source: WarpSource, windows: NDArray[np.float32]) -> torch.Tensor:
        """Compute the maps of windows, each by itself, and pool them whole: float (N, D)."""
        distinct = torch.from_numpy(windows).to(self.device)
        features = torch.empty((0, self.length), device=self.device)
        step = BATCHES[self.device.type]
        for start in range(0, len(windows), step):
            batch = distinct[start : start + step]
            count = len(batch)
            if source.rounded:
                # A convolution may round otherwise in a batch of another size.
                batch = torch.cat([batch, batch[-1:].expand(step - count, 4)])
            pooled = self.pyramid(self.trunk(warp_windows(source.pixels, batch)))[:count]
            if not start:
                features = pooled.new_empty((len(windows), self.length))
            features[start : start + count] = pooled
        return round_half(features) if source.rounded else features


def warp_windows(pixels: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Crop windows with their context and warp each to a square, whatever its shape.

    The window itself fills the middle of the crop, all but `CONTEXT` pixels on each side. What
    lies outside the photograph is zero, the mean colour of normalised pixels.

    Parameters
    ----------
    pixels : float32 (1, 3, H, W), normalised.
    windows : float32 (N, 4), half-open pixels, same device.

    Returns
    -------
    float32 (N, 3, CROP_SIDE, CROP_SIDE), bilinear, channels last in memory.
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
