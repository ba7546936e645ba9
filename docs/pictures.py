"""Draw how the method works, step by step, on one photograph: python docs/pictures.py --help."""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from data import read_photo
from proposals import propose
from spp_detect import Detector
from spp_detect.report.drawing import draw_detections
from spp_detect.spp import PhotoMaps

WINDOWS_SHOWN = 150
SCORED_SHOWN = 6
INCHES = 4.2


def main() -> None:
    """Draw all pictures of a photograph and a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="model folder")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--least", type=float, default=-0.5, help="least score of a detection")
    given = parser.parse_args()
    draw_method(Detector.load(given.run, "cpu"), read_photo(given.photo), given.out, given.least)


def draw_method(detector: Detector, photo: NDArray[np.uint8], out: Path, least: float) -> None:
    """Draw windows, the map, a window's bins, scores, and what is left of them.

    Parameters
    ----------
    detector : Detector
        On pooled features at one scale.
    photo : uint8 (H, W, 3)
        RGB.
    out : Path
        Gets windows.jpg, map.jpg, bins.jpg, scores.jpg and detections.jpg.
    least : float
        Least score of a detection.
    """
    out.mkdir(parents=True, exist_ok=True)
    windows = propose(photo, detector.proposal_settings)
    maps = detector.extractor.compute_maps(photo)
    pooled = maps.pool(windows)
    distinct = windows[pooled.first]  # others lie on the same cells as one of them
    scores = detector.score_pooled(pooled).scores.numpy()[pooled.first]
    best = distinct[scores.max(axis=1).argmax()]
    found = detector.detect(photo, windows)
    _save(_draw_windows(photo, windows), out / "windows.jpg")
    _save(_draw_map(photo, maps, best), out / "map.jpg")
    _save(_draw_bins(maps, best, detector.config.levels), out / "bins.jpg")
    _save(_draw_scores(photo, distinct, scores, detector.classes), out / "scores.jpg")
    drawn = np.asarray(draw_detections(photo, found[found.scores >= least], detector.classes))
    figure, (axes,) = _make_axes(1, photo.shape)
    axes.imshow(drawn)
    _save(figure, out / "detections.jpg")


def _draw_windows(photo: NDArray[np.uint8], windows: NDArray[np.float32]) -> Figure:
    figure, (plain, proposed) = _make_axes(2, photo.shape)
    for axes in (plain, proposed):
        axes.imshow(photo)
    plain.set_title("a photograph")
    proposed.set_title(f"{WINDOWS_SHOWN} of its {len(windows)} windows")
    step = max(1, len(windows) // WINDOWS_SHOWN)
    for box in windows[::step][:WINDOWS_SHOWN]:
        _add_box(proposed, box, "yellow", 0.5, alpha=0.6)
    return figure


def _draw_map(photo: NDArray[np.uint8], maps: PhotoMaps, window: NDArray[np.float32]) -> Figure:
    figure, (left, right) = _make_axes(2, photo.shape)
    left.imshow(photo)
    _add_box(left, window, "yellow", 2)
    left.set_title("a window")
    height, width, channels = maps.maps[""][0].shape
    right.imshow(_find_strength(maps), cmap="magma", aspect="auto")
    _add_cells(right, maps.project(window[None], 0, 0)[0], "yellow", 2)
    right.set_title(f"the map: {height} × {width} cells of {channels} values")
    return figure


def _draw_bins(maps: PhotoMaps, window: NDArray[np.float32], levels: tuple[int, ...]) -> Figure:
    cells = maps.project(window[None], 0, 0)[0]
    x1, y1, x2, y2 = cells.tolist()
    crop = _find_strength(maps)[y1 : y2 + 1, x1 : x2 + 1]
    figure, every = _make_axes(len(levels), crop.shape, largest=2.4)
    for axes, n in zip(every, levels, strict=True):
        axes.imshow(crop, cmap="magma", aspect="auto")
        axes.set_title(f"{n} × {n} bins")
        for i in range(n):
            for k in range(n):
                _add_cells(axes, _find_bin(crop.shape, n, i, k), "white", 1.2)
    return figure


def _find_bin(size: tuple[int, ...], n: int, i: int, k: int) -> NDArray[np.int64]:
    """Cells of bin (row i, column k): left, top, right, bottom, inclusive (paper, section 2.2)."""
    height, width = size[:2]
    first = k * width // n, i * height // n
    last = -(-(k + 1) * width // n) - 1, -(-(i + 1) * height // n) - 1
    return np.array([*first, *last])


def _draw_scores(
    photo: NDArray[np.uint8],
    windows: NDArray[np.float32],
    scores: NDArray[np.float32],
    classes: tuple[str, ...],
) -> Figure:
    figure, (pictures, bars) = _make_axes(2, photo.shape)
    pictures.imshow(photo)
    rows = np.argsort(-scores.max(axis=1))[:SCORED_SHOWN]
    colours = mpl.colormaps["tab10"](np.arange(SCORED_SHOWN))
    for row, colour in zip(rows, colours, strict=False):
        _add_box(pictures, windows[row], colour, 1.5)
    pictures.set_title(f"the {SCORED_SHOWN} windows of the highest scores")
    bars.set_axis_on()
    places = np.arange(len(classes))
    for i, (row, colour) in enumerate(zip(rows, colours, strict=False)):
        bars.bar(places + (i + 0.5) / SCORED_SHOWN * 0.8 - 0.4, scores[row], 0.12, color=colour)
    bars.set_xticks(places, classes, rotation=30, ha="right")
    bars.axhline(0, color="black", linewidth=0.8)
    bars.set_title("their scores, an SVM a class")
    return figure


def _find_strength(maps: PhotoMaps) -> NDArray[np.float32]:
    """Mean of a cell's values at the first scale: float32 (H, W)."""
    strength: NDArray[np.float32] = maps.maps[""][0].float().mean(dim=2).numpy()
    return strength


def _make_axes(
    count: int, size: tuple[int, ...], largest: float = INCHES
) -> tuple[Figure, list[Axes]]:
    """Make a row of axes without ticks for pictures of a size (height, width, ...)."""
    height = largest * min(1.0, size[0] / size[1])
    width = height * size[1] / size[0]
    figure = Figure(figsize=(count * width, height + 0.35), layout="constrained")
    every = figure.subplots(1, count, squeeze=False)[0].tolist()
    for axes in every:
        axes.set_axis_off()
        axes.title.set_fontsize(9)
    return figure, every


def _add_box(
    axes: Axes, box: NDArray[np.float32], colour: object, width: float, alpha: float = 1.0
) -> None:
    x1, y1, x2, y2 = box.tolist()
    style = {"fill": False, "edgecolor": colour, "linewidth": width, "alpha": alpha}
    axes.add_patch(Rectangle((x1 - 0.5, y1 - 0.5), x2 - x1, y2 - y1, **style))


def _add_cells(axes: Axes, cells: NDArray[np.integer], colour: str, width: float) -> None:
    """Outline cells left, top, right, bottom, inclusive."""
    _add_box(axes, np.add(cells, (0, 0, 1, 1), dtype=np.float32), colour, width)


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, pil_kwargs={"quality": 88})


if __name__ == "__main__":
    main()
