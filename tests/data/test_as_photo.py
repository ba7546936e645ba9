"""A photograph in any of the usual forms."""

import doctest

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from data import DataError, as_photo, photo, read_photo

RNG = np.random.default_rng(3)
RGB = RNG.integers(0, 256, (7, 5, 3), dtype=np.uint8)


def check(found, expected) -> None:
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.fixture()
def file(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(RGB).save(path)
    return path


def test_paths(file):
    check(as_photo(file), RGB)
    check(as_photo(str(file)), RGB)
    check(as_photo(file, bgr=True), RGB)  # of a file the order is known


def test_arrays():
    assert as_photo(RGB) is RGB
    check(as_photo(RGB[::2, ::-1]), RGB[::2, ::-1])
    check(as_photo(cv2.cvtColor(RGB, cv2.COLOR_RGB2BGR), bgr=True), RGB)
    fixed = RGB.copy()
    fixed.flags.writeable = False
    check(as_photo(fixed), RGB)


def test_grey_arrays():
    grey = RGB[:, :, 1]
    expected = cv2.cvtColor(np.ascontiguousarray(grey), cv2.COLOR_GRAY2RGB)
    check(as_photo(grey), expected)
    check(as_photo(grey, bgr=True), expected)


def test_opencv_and_pillow_give_the_same(file):
    check(as_photo(cv2.imread(str(file)), bgr=True), as_photo(Image.open(file)))


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_images_of_every_mode(mode):
    source = Image.fromarray(RGB).convert("L" if mode == "I;16" else "RGB")
    if mode == "I;16":
        deep = np.asarray(source).astype(np.uint16) * 257
        check(as_photo(Image.fromarray(deep)), np.asarray(source.convert("RGB")))
        return
    image = source.convert(mode)
    check(as_photo(image), np.asarray(image.convert("RGB")))


def test_transparency_is_laid_on_white():
    clear = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    check(as_photo(Image.fromarray(clear)), np.full_like(RGB, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_orientation_of_an_opened_file(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    with Image.open(path) as image:
        check(as_photo(image), expected)
    with Image.open(path) as image:
        image.load()
        check(as_photo(image), read_photo(path))
    with Image.open(path) as image:
        check(as_photo(ImageOps.exif_transpose(image)), expected)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "NoneType"),
        (b"photo.jpg", "bytes"),
        ([[0, 1], [2, 3]], "list"),
        (RGB.astype(np.float32), "float32 (7, 5, 3)"),
        (RGB.astype(np.int64), "int64 (7, 5, 3)"),
        (RGB.transpose(2, 0, 1), "uint8 (3, 7, 5)"),
        (np.dstack([RGB, RGB[:, :, :1]]), "uint8 (7, 5, 4)"),
        (RGB[None], "uint8 (1, 7, 5, 3)"),
        (RGB[0, 0], "uint8 (3,)"),
        (RGB[:0], "uint8 (0, 5, 3)"),
        (np.zeros((0, 4), np.uint8), "uint8 (0, 4)"),
        (np.uint8(3), "uint8"),
    ],
)
def test_anything_else_is_told_in_one_line(given, named):
    with pytest.raises(DataError) as caught:
        as_photo(given)
    text = str(caught.value)
    assert named in text
    assert "expected a path, a PIL image or an array of uint8, (H, W, 3) or (H, W)" in text
    assert len(text.splitlines()) == 1


def test_images_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match=r"PIL image: 0 x 3 pixels"):
        as_photo(Image.new("RGB", (0, 3)))
    with pytest.raises(DataError, match="floating-point"):
        as_photo(Image.new("F", (2, 3)))
    path = tmp_path / "cut.jpg"
    Image.fromarray(cv2.resize(RGB, (300, 300))).save(path)
    path.write_bytes(path.read_bytes()[:-3000])
    with Image.open(path) as image, pytest.raises(DataError, match=r"cut\.jpg: damaged"):
        as_photo(image)
    with pytest.raises(DataError, match="no such file"):
        as_photo(tmp_path / "missing.jpg")


def test_the_documented_example():
    failed, tried = doctest.testmod(photo)
    assert tried
    assert not failed
