"""Crops of objects and of background, of photographs drawn by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import LabelledSet, Labels, Photograph
from spp_detect.experiments.crops import BACKGROUND, write_crops

SIDE, COPIES = 48, 6
# Grey shades stay what they are when colours are exchanged.
GREY, WHITE, BLACK = 128, 250, 5
BOXES = np.array([[20, 30, 80, 90], [120, 40, 180, 80], [200, 110, 230, 140]], np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> LabelledSet:
    """Two grey photographs of a white cat, a black dog, and another dog that is difficult."""
    folder = tmp_path_factory.mktemp("drawn")
    photographs = []
    for name in ("one", "two"):
        photo = np.full((160, 240, 3), GREY, np.uint8)
        for (x1, y1, x2, y2), shade in zip(BOXES.astype(int), (WHITE, BLACK, BLACK), strict=True):
            photo[y1:y2, x1:x2] = shade
        path = folder / f"{name}.png"
        Image.fromarray(photo).save(path)
        labels = Labels(BOXES, np.array([0, 1, 1]), np.array([False, False, True]))
        photographs.append(Photograph(name, path, 240, 160, labels))
    return LabelledSet(folder, "train", ("cat", "dog"), tuple(photographs))


def read_crops(folder: Path) -> dict[str, np.ndarray]:
    return {
        name: np.stack([np.asarray(Image.open(path)) for path in sorted((folder / name).iterdir())])
        for name in ("cat", "dog", BACKGROUND)
    }


def test_objects_lie_in_the_middle_and_background_beside_them(dataset, tmp_path):
    write_crops(dataset, tmp_path, SIDE, COPIES, np.random.default_rng(0))
    crops = read_crops(tmp_path)
    assert crops["cat"].shape == crops["dog"].shape == (2 * COPIES, SIDE, SIDE, 3)
    middle = slice(SIDE // 2 - 4, SIDE // 2 + 4)
    assert (crops["cat"][:, middle, middle] == WHITE).all()
    assert (crops["dog"][:, middle, middle] == BLACK).all()
    for name in ("cat", "dog"):  # and some of what is around them
        assert (crops[name] == GREY).mean(axis=(1, 2, 3)).min() > 0.1
    assert 1 <= len(crops[BACKGROUND]) <= 2 * COPIES
    # An overlap of 0.3 at the most: objects take up less than a half of a square.
    assert (crops[BACKGROUND] != GREY).mean(axis=(1, 2, 3)).max() < 0.5


def test_crops_are_turned_and_the_same_for_the_same_seed(dataset, tmp_path):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_crops(dataset, tmp_path / name, SIDE, COPIES, np.random.default_rng(seed))
    one, again, other = (read_crops(tmp_path / name) for name in ("one", "again", "other"))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["cat"], other["cat"])
    # The dog is wider than high, until it is turned by a quarter.
    black = one["dog"][..., 0] == BLACK
    widths, heights = black.any(1).sum(1), black.any(2).sum(1)
    assert (widths > heights).any() and (widths < heights).any()


def test_colours_are_exchanged(dataset, tmp_path):
    photo = np.asarray(Image.open(dataset.photographs[0].path)).copy()
    photo[30:90, 20:80] = (200, 100, 50)
    path = tmp_path / "coloured.png"
    Image.fromarray(photo).save(path)
    first = dataset.photographs[0]
    coloured = Photograph("coloured", path, 240, 160, first.labels)
    write_crops(
        LabelledSet(tmp_path, "train", dataset.classes, (coloured,)),
        tmp_path / "crops",
        SIDE,
        20,
        np.random.default_rng(0),
    )
    centres = read_crops(tmp_path / "crops")["cat"][:, SIDE // 2, SIDE // 2]
    assert (np.sort(centres, axis=1) == (50, 100, 200)).all()
    assert len(np.unique(centres, axis=0)) > 2
