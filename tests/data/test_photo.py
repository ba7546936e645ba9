"""Every kind of photograph, and every kind of file that is none."""

import io
import os
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps

from data import PHOTO_SUFFIXES, DataError, find_photographs, photo_size, read_photo

RNG = np.random.default_rng(7)
SMOOTH = cv2.resize(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), (50, 40))


def error_of(call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and "\r" not in text
    assert str(args[0]) in text
    return text


def both_fail(path, expected):
    assert expected in error_of(read_photo, path)
    assert expected in error_of(photo_size, path)


def png_chunk(kind, payload):
    body = kind + payload
    return struct.pack(">I", len(payload)) + body + struct.pack(">I", zlib.crc32(body))


def write_png(path, width, height, depth, colour, rows):
    """Write a PNG with no library's help; `rows` are the packed bytes of each row."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", head)
        + png_chunk(b"IDAT", data)
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm", "jp2", "j2k"])
def test_lossless_kinds_give_the_pixels_back(tmp_path, suffix):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(SMOOTH).save(path, **({"lossless": True} if suffix == "webp" else {}))
    found = read_photo(path)
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.flags.writeable
    np.testing.assert_array_equal(found, SMOOTH)
    assert photo_size(path) == (50, 40)


def test_jpeg_reads_as_opencv_reads_it(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(SMOOTH).save(path, quality=95)
    theirs = cv2.imread(str(path))[:, :, ::-1]
    assert np.abs(read_photo(path).astype(int) - theirs).max() <= 3
    assert np.abs(read_photo(str(path)).astype(int) - SMOOTH).mean() < 3


def test_avif(tmp_path):
    if ".avif" not in PHOTO_SUFFIXES:
        pytest.skip("this Pillow reads no AVIF")
    path = tmp_path / "photo.AVIF"
    Image.fromarray(SMOOTH).save(path, "AVIF", quality=95)
    found = read_photo(path)
    assert photo_size(path) == (50, 40) and find_photographs(tmp_path) == [path]
    assert np.abs(found.astype(int) - SMOOTH).mean() < 3
    path.write_bytes(path.read_bytes()[:-200])
    assert "damaged" in error_of(read_photo, path)


def test_contents_and_not_the_suffix_decide(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    Image.fromarray(SMOOTH).save(path, format="PNG")
    np.testing.assert_array_equal(read_photo(path), SMOOTH)


def test_16_bit_grey_png_is_scaled_and_not_clipped(tmp_path):
    values = np.array([[0, 256, 257, 32768], [65535, 65278, 128, 129]], np.uint16)
    path = tmp_path / "deep.png"
    write_png(path, 4, 2, 16, 0, [row.astype(">u2").tobytes() for row in values])
    expected = [[round(v / 257) for v in row] for row in values.tolist()]
    assert expected[0][3] == 128 and expected[1][0] == 255
    np.testing.assert_array_equal(read_photo(path), np.repeat(np.array(expected)[..., None], 3, 2))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_grey_tiff(tmp_path, order):
    values = RNG.integers(0, 65536, (5, 6)).astype(order)
    mode = "I;16" if order == "<u2" else "I;16B"
    path = tmp_path / "deep.tif"
    Image.frombytes(mode, (6, 5), values.tobytes()).save(path)
    np.testing.assert_array_equal(read_photo(path)[..., 1], np.rint(values / 257.0))


def test_16_bit_colour_png(tmp_path):
    values = RNG.integers(0, 65536, (3, 4, 3))
    path = tmp_path / "deep.png"
    write_png(path, 4, 3, 16, 2, [row.astype(">u2").tobytes() for row in values])
    assert np.abs(read_photo(path) - values / 257).max() <= 1


def test_32_bit_grey(tmp_path):
    path = tmp_path / "grey.tif"
    Image.fromarray(np.array([[0, 65535], [514, 257]], np.int32)).save(path)
    np.testing.assert_array_equal(read_photo(path)[..., 0], [[0, 255], [2, 1]])
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(path)
    assert "65536" in error_of(read_photo, path)


def test_float_pixels_are_refused(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.ones((3, 3), np.float32)).save(path)
    assert "floating-point" in error_of(read_photo, path)


def test_grey_and_one_bit(tmp_path):
    grey = SMOOTH[..., 0]
    for name in ("grey.png", "grey.jpg"):
        Image.fromarray(grey).save(tmp_path / name, quality=100)
        found = read_photo(tmp_path / name)
        assert found.shape == (40, 50, 3) and np.abs(found[..., 2].astype(int) - grey).max() <= 3
    write_png(tmp_path / "bits.png", 8, 2, 1, 0, [b"\xa5", b"\x0f"])
    expected = [[255, 0, 255, 0, 0, 255, 0, 255], [0] * 4 + [255] * 4]
    np.testing.assert_array_equal(read_photo(tmp_path / "bits.png")[..., 0], expected)


def test_transparency_is_laid_on_white(tmp_path):
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 200, 51]]], np.uint8)
    shares = pixels[..., 3:] / 255
    expected = pixels[..., :3] * shares + 255 * (1 - shares)
    for suffix in ("png", "tif", "webp"):
        path = tmp_path / f"alpha.{suffix}"
        Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
        assert np.abs(read_photo(path) - expected).max() <= 1
    path = tmp_path / "la.png"
    Image.fromarray(np.array([[[40, 255], [40, 0], [0, 51]]], np.uint8), "LA").save(path)
    np.testing.assert_array_equal(read_photo(path)[0, :, 0], [40, 255, 204])


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "plain.png")
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    np.testing.assert_array_equal(read_photo(tmp_path / "plain.png")[0], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, clear in (("one.png", 1), ("one.gif", 1), ("bytes.png", b"\xff\x00\xff")):
            image.save(tmp_path / name, transparency=clear)
            expected[1] = [255, 255, 255]
            np.testing.assert_array_equal(read_photo(tmp_path / name)[0], expected)


def test_cmyk_jpeg_as_written_by_adobe_is_inverted_back(tmp_path):
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[:, :8], rgb[:, 8:] = (250, 40, 30), (20, 60, 220)
    path = tmp_path / "press.jpg"
    Image.fromarray(rgb).convert("CMYK").save(path, quality=100)  # Pillow writes the Adobe marker
    assert b"Adobe" in path.read_bytes()
    assert np.abs(read_photo(path).astype(int) - rgb).max() <= 4
    theirs = cv2.imread(str(path))[:, :, ::-1]
    assert np.abs(read_photo(path).astype(int) - theirs).max() <= 4


# What the stored pixels must go through to be seen upright, after the EXIF standard's table.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, suffix, orientation):
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(SMOOTH).save(path, exif=exif, **options)
    found = read_photo(path)
    assert photo_size(path) == (found.shape[1], found.shape[0])
    expected = UPRIGHT[orientation](SMOOTH).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < (3 if suffix == "jpg" else 0.01)
    with Image.open(path) as image:
        np.testing.assert_array_equal(found, np.asarray(ImageOps.exif_transpose(image)))


@pytest.mark.parametrize("bad", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_broken_exif_is_passed_over_in_silence(tmp_path, bad):
    path = tmp_path / "exif.jpg"
    Image.fromarray(SMOOTH).save(path, exif=bad)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_photo(path).shape == (40, 50, 3)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "blue")]
    for suffix in ("gif", "webp", "png", "tif"):
        path = tmp_path / f"moving.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        red = read_photo(path)
        assert red.shape == (7, 9, 3)
        assert (red[..., 0] > 240).all() and (red[..., 1:] < 15).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "webp", "tif"])
def test_truncated(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(RNG.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    for length in (1, 5, 13, 20, len(whole) // 2, len(whole) * 3 // 4):
        path.write_bytes(whole[:length])
        error_of(read_photo, path)


def test_flipped_bytes_give_a_photograph_or_our_error(tmp_path):
    """Whatever Pillow raises on damage, nothing but DataError comes out, and no warning."""
    for suffix in ("jpg", "png", "gif", "webp", "tif"):
        path = tmp_path / f"hit.{suffix}"
        Image.fromarray(SMOOTH).save(path)
        whole = path.read_bytes()
        for seed in range(60):
            rng = np.random.default_rng(seed)
            damaged = bytearray(whole)
            for place in rng.integers(0, min(len(whole), 400), 4):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    assert read_photo(path, 2000).ndim == 3
                except DataError as error:
                    assert str(path) in str(error) and "\n" not in str(error)


def test_not_photographs(tmp_path):
    both_fail(tmp_path / "absent.jpg", "no such file")
    both_fail(tmp_path, "not a file")
    for name, content, expected in (
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"hello, this is no photograph", "not a photograph"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a photograph"),
        ("sound.webp", b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "damaged header"),
    ):
        (tmp_path / name).write_bytes(content)
        both_fail(tmp_path / name, expected)


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX pipe")
def test_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    both_fail(tmp_path / "pipe.jpg", "not a file")


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path):
    with pytest.raises(DataError) as caught:
        read_photo(tmp_path / "two\nlines.jpg")
    assert "\n" not in str(caught.value)


def test_max_side(tmp_path):
    path = tmp_path / "wide.png"
    Image.new("RGB", (60, 20)).save(path)
    assert read_photo(path, max_side=60).shape == (20, 60, 3)
    text = error_of(read_photo, path, max_side=59)
    assert "60 x 20" in text and "59" in text and "--max-side" in text
    error_of(photo_size, path, max_side=59)
    Image.new("RGB", (20, 60)).save(path)
    error_of(photo_size, path, max_side=59)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    """50,000 x 50,000 pixels declared, none there: decoding would fail in another way."""
    path = tmp_path / "bomb.png"
    write_png(path, 50_000, 50_000, 8, 2, [])
    both_fail(path, "--max-side")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert photo_size(path, max_side=50_000) == (50_000, 50_000)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_pillows_own_limit_neither_hinders_nor_changes(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"large.{suffix}"
    Image.fromarray(SMOOTH).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 2000 pixels: an error for Image.open
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)
    np.testing.assert_array_equal(read_photo(path), SMOOTH)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_find_photographs(tmp_path):
    for name in ("b.JPG", "a.png", "deep/er/c.WebP", "deep/d.tiff", "notes.txt", "._b.JPG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.jpg").mkdir()
    found = [path.relative_to(tmp_path).as_posix() for path in find_photographs(tmp_path)]
    assert found == ["a.png", "b.JPG", "deep/d.tiff", "deep/er/c.WebP"]
    assert find_photographs(str(tmp_path / "a.png")) == [tmp_path / "a.png"]


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    folder, disk = tmp_path / "photos", tmp_path / "disk"
    for path in (folder / "a.png", folder / "in" / "b.png", disk / "deep" / "c.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (folder / "linked").symlink_to(disk)
    (folder / ".hidden").symlink_to(disk)
    (folder / "in" / "up").symlink_to(folder)  # to a folder that it lies in
    (disk / "back").symlink_to(folder)  # the same by way of another link
    (folder / "self").symlink_to(folder / "self")
    (folder / "gone.png").symlink_to(tmp_path / "absent.png")  # to be told as one that is damaged
    found = [path.relative_to(folder).as_posix() for path in find_photographs(folder)]
    assert found == ["a.png", "gone.png", "in/b.png", "linked/deep/c.png"]
    found = [path.relative_to(disk).as_posix() for path in find_photographs(disk)]
    assert found == ["back/a.png", "back/gone.png", "back/in/b.png", "deep/c.png"]


def test_find_photographs_refuses(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert "no such folder" in error_of(find_photographs, tmp_path / "absent")
    assert "neither" in error_of(find_photographs, tmp_path / "notes.txt")
    assert "no photograph" in error_of(find_photographs, tmp_path)


def test_real_photographs_read_as_opencv_reads_them(mini_voc):
    for path in find_photographs(mini_voc / "JPEGImages")[::80]:
        ours = read_photo(path)
        assert photo_size(path) == (ours.shape[1], ours.shape[0])
        assert np.abs(ours.astype(int) - cv2.imread(str(path))[:, :, ::-1]).mean() < 1


def test_progressive_jpeg_bytes_survive_a_round_trip(tmp_path):
    plain, staged = io.BytesIO(), tmp_path / "staged.jpg"
    Image.fromarray(SMOOTH).save(plain, "JPEG", quality=90)
    Image.fromarray(SMOOTH).save(staged, quality=90, progressive=True)
    with Image.open(plain) as image:
        np.testing.assert_array_equal(read_photo(staged), np.asarray(image))


def test_a_photograph_that_says_it_is_huge_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """Its pixels would take 10.8 GB: Pillow reserves them to find a PNG's EXIF."""
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "png")
    content = stream.getvalue()
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    path = tmp_path / "huge.png"
    path.write_bytes(content[:12] + header + checksum + content[33:])
    reserved = []
    monkeypatch.setattr(
        ImageFile.ImageFile, "load_prepare", lambda self: reserved.append(self.size)
    )
    for read in (read_photo, photo_size):
        assert "60000 x 60000 pixels; expected at most 10000 a side" in error_of(read, path)
    assert not reserved
