"""Folders of class folders, beside torchvision's reading."""

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from data import DataError, open_image_folder


def test_the_list_is_torchvisions(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a/x/3.jpg", "c/4.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "b/notes.txt").touch()
    (tmp_path / "readme.jpg").touch()
    images = open_image_folder(tmp_path)
    theirs = ImageFolder(str(tmp_path))
    assert images.classes == tuple(theirs.classes)
    pairs = {(str(path), int(k)) for path, k in zip(images.paths, images.labels, strict=True)}
    assert pairs == set(theirs.samples)
    assert images.labels.dtype == np.int64 and len(images) == 4


@pytest.mark.parametrize(
    ("names", "told"),
    [
        ((), "holds no folder of a class"),
        (("photo.jpg",), "holds no folder of a class"),
        (("one/photo.jpg", ".hidden/photo.jpg"), "only one class's folder, one"),
        (("one/photo.jpg", "two/notes.txt"), "holds no image"),
    ],
)
def test_refusals(names, told, tmp_path):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=told) as caught:
        open_image_folder(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such folder"):
        open_image_folder(tmp_path / "absent")
