"""Views of an image at test time: crops of it, or windows of its maps (paper, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from spp_detect.classification.config import MINIMUM_SIDE
from spp_detect.classification.network import Classifier, ClassifierError
from spp_detect.classification.view_names import CROPPED
from spp_detect.inference_copy import InferenceCopy
from spp_detect.mirror import mirror_photo

Photo = NDArray[np.uint8]
# Short sides of the 96 views, beside the training's 224.
VIEW_SCALES = (224, 256, 300, 360, 448, 560)
MOST_VIEWS = 9  # of an image at one scale
CENTRE_AND_CORNERS = 5  # the first of them
LONGEST = 10  # long side over short; of longer images the middle is looked at


class Viewer:
    """Scores images by a classifier: what its softmax says of several views, on average.

    Parameters
    ----------
    network : Classifier
        In evaluation mode.
    device : torch.device
        Where it computes.
    """

    def __init__(self, network: Classifier, device: torch.device) -> None:
        self.network = network.to(device)
        self.device = device
        precision = network.config.precision
        self.trunk = InferenceCopy(network.trunk, precision)
        self.size = network.config.size
        self.least_side = self.size * MINIMUM_SIDE  # of an image that crops are taken of
        self.cells = self._measure_cells()

    def look(self, photo: Photo, views: str) -> NDArray[np.float64]:
        """Score an image (H, W, 3): the classes' probabilities, float64 (C,), by some of VIEWS.

        Raises
        ------
        ClassifierError
            As `pool`.
        """
        (mean,) = average(self.score([self.pool(photo, views)]))
        return mean

    @torch.inference_mode()
    def pool(self, photo: Photo, views: str) -> torch.Tensor:
        """Pool an image's views: (V, D), of the type that the trunk computes.

        Raises
        ------
        ClassifierError
            For views on maps, of a network without a pyramid.
        """
        if not self.network.config.has_pyramid and views not in CROPPED:
            raise ClassifierError(
                f"views {views}: expected {' or '.join(CROPPED)}, the network has no pyramid"
            )
        return torch.cat([pool(self, photo) for pool in VIEWS[views]])

    @torch.inference_mode()
    def score(self, pooled: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Score the pooled views (V, D) of some images: probabilities, float32 (V, C) of each.

        All at once: of a single view, reading the fc layers' weights takes most of the time.
        """
        described = self.network.fc.infer(torch.cat(list(pooled)), self.network.config.precision)
        probabilities = self.network.fc8(described).softmax(dim=1)
        return list(probabilities.split([len(one) for one in pooled]))

    def pool_centre(self, photo: Photo) -> torch.Tensor:
        """Pool the centre crop: (1, D)."""
        return self._pool_crops(self._cut_crops(photo, self.least_side, 1))

    def pool_ten_crops(self, photo: Photo) -> torch.Tensor:
        """Pool ten crops, centre and corners and their mirror images: (10, D)."""
        return self.pool_crops(photo, self.least_side, CENTRE_AND_CORNERS)

    def pool_ten_on_maps(self, photo: Photo) -> torch.Tensor:
        """Pool the same ten as parts of the image's map and of its mirror image's: (10, D)."""
        return self.pool_on_maps(photo, self.least_side, CENTRE_AND_CORNERS)

    def pool_96_on_maps(self, photo: Photo) -> torch.Tensor:
        """Pool 18 windows of maps at each of six scales, 6 at the least: (96, D)."""
        return torch.cat([self.pool_on_maps(photo, side) for side in self.list_sides()])

    def pool_full(self, photo: Photo, side: float | None = None) -> torch.Tensor:
        """Pool the full image and its mirror image: (2, D).

        Parameters
        ----------
        photo : uint8 (H, W, 3)
            The image.
        side : float, optional
            Its short side in pixels where it is looked at; by default that of the crops' images.
        """
        resized = resize_image(photo, side or self.least_side)
        both = [self._compute_maps(one) for one in (resized, mirror_photo(resized))]
        return torch.cat([self.network.pyramid(maps) for maps in both])

    def list_sides(self) -> list[float]:
        """List the short sides of the 96 views' images, in pixels."""
        return [self.size * scale / VIEW_SCALES[0] for scale in VIEW_SCALES]

    def pool_crops(self, photo: Photo, side: float, count: int = MOST_VIEWS) -> torch.Tensor:
        """Pool the first `count` views of an image at a short side, then mirrored: (2V, D)."""
        crops = self._cut_crops(photo, side, count)
        return self._pool_crops([*crops, *map(mirror_photo, crops)])

    def pool_on_maps(self, photo: Photo, side: float, count: int = MOST_VIEWS) -> torch.Tensor:
        """Pool the same as parts of the image's map and of its mirror image's: (2V, D)."""
        resized, views = self._list_views(photo, side, count)
        pooled = []
        for one in (resized, mirror_photo(resized)):
            maps = self._compute_maps(one)[0]
            height, width = maps.shape[1:]
            cells = locate_views(views, self.network.trunk.grid.stride, self.cells, (width, height))
            rows = maps.permute(1, 2, 0).contiguous()
            located = torch.from_numpy(cells).to(self.device)
            pooled.append(self.network.pyramid.pool_windows(rows, located))
        return torch.cat(pooled)

    def _list_views(
        self, photo: Photo, side: float, count: int
    ) -> tuple[Photo, NDArray[np.float32]]:
        """The image at a short side, and the first of its views."""
        resized = resize_image(photo, side)
        height, width = resized.shape[:2]
        return resized, list_views((width, height), self.size)[:count]

    def _cut_crops(self, photo: Photo, side: float, count: int) -> list[Photo]:
        resized, views = self._list_views(photo, side, count)
        return [resized[y1:y2, x1:x2] for x1, y1, x2, y2 in views.astype(int).tolist()]

    def _pool_crops(self, crops: list[Photo]) -> torch.Tensor:
        """Pool images of the network's size in one pass."""
        pixels = [self.network.trunk.normalise(crop) for crop in crops]
        maps = self.trunk(_lay_out(torch.cat(pixels).to(self.device)))
        pooled: torch.Tensor = self.network.pyramid(maps)
        return pooled

    @torch.inference_mode()
    def _measure_cells(self) -> int:
        """Count the cells of a crop's map along a side."""
        blank = np.zeros((self.size, self.size, 3), np.uint8)
        return int(self._compute_maps(blank).shape[-1])

    def _compute_maps(self, photo: Photo) -> torch.Tensor:
        return self.trunk(_lay_out(self.network.trunk.normalise(photo).to(self.device)))


Pool = Callable[[Viewer, Photo], torch.Tensor]
VIEWS: dict[str, tuple[Pool, ...]] = {
    "centre": (Viewer.pool_centre,),
    "ten": (Viewer.pool_ten_crops,),
    "ten-on-maps": (Viewer.pool_ten_on_maps,),
    "96-on-maps": (Viewer.pool_96_on_maps,),
    "full": (Viewer.pool_full,),
    "all": (Viewer.pool_96_on_maps, Viewer.pool_full),
}


def average(scored: Iterable[torch.Tensor]) -> list[NDArray[np.float64]]:
    """Average the views of each image: float64 (C,)."""
    return [views.double().mean(dim=0).cpu().numpy() for views in scored]


def fit_size(photo: Photo, short_side: float) -> tuple[int, int]:
    """Width and height of an image (H, W, 3) whose short side has so many pixels."""
    height, width = _shorten(photo).shape[:2]
    factor = round(short_side) / min(height, width)
    return max(1, round(width * factor)), max(1, round(height * factor))


def resize_image(photo: Photo, short_side: float) -> Photo:
    """Resize an image (H, W, 3) to a short side in pixels; shrunk ones are averaged.

    Of one more than ten times as long as wide the middle is taken.
    """
    photo = _shorten(photo)
    size = fit_size(photo, short_side)
    shrinks = size[0] < photo.shape[1]
    resized = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _shorten(photo: Photo) -> Photo:
    height, width = photo.shape[:2]
    most = LONGEST * min(height, width)
    x, y = max(0, width - most) // 2, max(0, height - most) // 2
    return photo[y : y + most, x : x + most]


def list_views(size: tuple[int, int], side: int) -> NDArray[np.float32]:
    """List the square windows that the paper looks at: the centre, four corners, four mid-sides.

    Parameters
    ----------
    size : (width, height)
        Of the image, in pixels, neither below `side`.
    side : int
        Of the windows.

    Returns
    -------
    float32 (V, 4)
        x1 y1 x2 y2; none twice: 9, or 3 where one side of the image is that of the windows,
        or 1 where both are.
    """
    x, y = size[0] - side, size[1] - side
    middle = (x // 2, y // 2)
    corners = [(0, 0), (x, 0), (0, y), (x, y)]
    sides = [(middle[0], 0), (middle[0], y), (0, middle[1]), (x, middle[1])]
    starts = np.array(list(dict.fromkeys([middle, *corners, *sides])), np.float32)
    return np.concatenate([starts, starts + side], axis=1)


def locate_views(
    views: NDArray[np.float32], stride: int, cells: int, map_size: tuple[int, int]
) -> NDArray[np.int32]:
    """Find the cells of an image's map that lie where those of the views' own maps would.

    As many as a crop's map has, as the fc layers know no other number: the paper's rule for windows
    (its appendix) would take one more wherever a view begins between two cells.

    Parameters
    ----------
    views : float32 (V, 4)
        x1 y1 x2 y2 in the image, in pixels.
    stride : int
        Of the map, in pixels.
    cells : int
        Of a view's own map, along a side.
    map_size : (width, height)
        Of the image's map, neither below `cells`.

    Returns
    -------
    int32 (V, 4)
        First and last columns and rows: x1 y1 x2 y2, inclusive.
    """
    most = np.array(map_size) - cells
    starts = np.floor(views[:, :2] / stride + 0.5).astype(np.int32).clip(0, most)
    return np.concatenate([starts, starts + cells - 1], axis=1).astype(np.int32)


def _lay_out(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.contiguous(memory_format=torch.channels_last)
