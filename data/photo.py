"""Reading one photograph, whatever its kind, as 8-bit RGB."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from data.errors import DataError, MemoryShortageError, problem

PhotoLike: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]"

DEFAULT_MAX_SIDE = 10_000
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")
_OTHERS = (".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm", ".pnm")
_JPEG_2000 = (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc")

# Pillow's readers are called directly: Image.open applies the process-wide Image.MAX_IMAGE_PIXELS,
# which would stand in the way of a raised max_side and is not ours to change.
_READERS: dict[bytes, Callable[[IO[bytes]], ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImagePlugin.jpeg_factory,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"\0\0\0\x0cjP  \r\n\x87\n": Jpeg2KImagePlugin.Jpeg2KImageFile,
    b"\xff\x4f\xff\x51": Jpeg2KImagePlugin.Jpeg2KImageFile,
    **{b"P%d" % kind: PpmImagePlugin.PpmImageFile for kind in range(1, 7)},
}
PHOTO_SUFFIXES: tuple[str, ...] = (*_JPEG, *_OTHERS, *_JPEG_2000)
if find_spec("PIL.AvifImagePlugin"):  # since Pillow 11.3
    from PIL import AvifImagePlugin

    if AvifImagePlugin.SUPPORTED:
        PHOTO_SUFFIXES += (".avif", ".avifs")
        _READERS |= dict.fromkeys((b"ftypavif", b"ftypavis"), AvifImagePlugin.AvifImageFile)
_EXPECTED = "expected a path, a PIL image or an array of uint8, (H, W, 3) or (H, W)"
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# warnings.catch_warnings changes the whole process: two threads inside it at once could leave each
# other's filters behind.
_PILLOW = threading.Lock()


def read_photo(path: Path | str, max_side: int = DEFAULT_MAX_SIDE) -> npt.NDArray[np.uint8]:
    """Read a file of one of the kinds `PHOTO_SUFFIXES` as the user sees it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits, and
    of an animation the first frame is taken.

    Parameters
    ----------
    path : path
        The file; its contents, not its suffix, decide the kind.
    max_side : int
        Widest and highest photograph accepted, in pixels; checked before anything is decoded.

    Returns
    -------
    numpy.ndarray
        Uint8 ``(H, W, 3)``, RGB, C-contiguous.

    Raises
    ------
    DataError
        The file is missing, no photograph, damaged, larger than ``max_side`` or of a pixel type
        without a fixed range (floating point, 32-bit grey above 65535).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (4, 3), "red").save(f"{folder}/red.png")
    ...     photo = read_photo(f"{folder}/red.png")
    ...     size = photo_size(f"{folder}/red.png")
    >>> photo.shape, photo[0, 0].tolist(), size
    ((3, 4, 3), [255, 0, 0], (4, 3))
    """
    path = Path(path)
    with _open_photo(path, max_side) as image, _blaming(path, f"damaged {image.format} file"):
        _decode(image)
        return _convert_and_turn(path, image)


def as_photo(given: PhotoLike, *, bgr: bool = False) -> npt.NDArray[np.uint8]:
    """Turn a photograph in any of the usual forms into an 8-bit RGB array.

    Parameters
    ----------
    given : path, PIL image or uint8 array (H, W, 3) or (H, W)
        A file is read as `read_photo` does; an image, of any mode, is converted by the same rules,
        EXIF orientation included; an array of two axes is grey.
    bgr : bool
        Whether an array of three axes is blue, green, red, as OpenCV reads files; of files and
        images the order is known.

    Returns
    -------
    uint8 (H, W, 3)
        RGB, C-contiguous; the given array itself where it is that already.

    Raises
    ------
    DataError
        For anything else, an array without pixels, and what `read_photo` refuses.

    Examples
    --------
    >>> import numpy as np
    >>> blue = np.array([[[255, 0, 0]]], np.uint8)  # one pixel, as OpenCV has it
    >>> as_photo(blue, bgr=True).tolist()
    [[[0, 0, 255]]]
    """
    if isinstance(given, str | os.PathLike):
        return read_photo(Path(given))
    if isinstance(given, Image.Image):
        return _read_image(given)
    if not isinstance(given, np.ndarray):
        raise DataError(f"{type(given).__name__}: {_EXPECTED}")
    if given.dtype != np.uint8 or not given.size:
        raise DataError(f"array of {given.dtype} {given.shape}: {_EXPECTED}")
    if given.ndim == 2:
        return np.repeat(given[:, :, None], 3, axis=2)
    if given.ndim != 3 or given.shape[2] != 3:
        raise DataError(f"array of {given.dtype} {given.shape}: {_EXPECTED}")
    return np.ascontiguousarray(given[:, :, ::-1] if bgr else given)


def photo_size(path: Path | str, max_side: int = DEFAULT_MAX_SIDE) -> tuple[int, int]:
    """Return the size in pixels after EXIF orientation, from the file's header alone.

    Parameters
    ----------
    path : path
        The file.
    max_side : int
        Widest and highest photograph accepted, in pixels.

    Returns
    -------
    width, height : int
        For an example see `read_photo`.

    Raises
    ------
    DataError
        As `read_photo`, so far as the header shows it.
    """
    with _open_photo(Path(path), max_side) as image:
        return _turned_size(image)


@contextmanager
def _open_photo(path: Path, max_side: int) -> Iterator[ImageFile.ImageFile]:
    if not path.is_file():
        kind = "is not a file" if path.exists() else "no such file"
        raise problem(path, f"{kind}; expected a photograph")
    with _blaming(path, "cannot be read"):
        stream = path.open("rb")
    with stream:
        yield _read_header(path, stream, max_side)


def _read_header(path: Path, stream: IO[bytes], max_side: int) -> ImageFile.ImageFile:
    start = stream.read(16)
    if not start:
        raise problem(path, "is empty (0 bytes); expected a photograph")
    if start[4:8] == b"ftyp":  # AVIF's, behind the length of its box
        start = start[4:]
    for signature, reader in _READERS.items():
        if start.startswith(signature):
            stream.seek(0)
            with _blaming(path, "damaged header"), _quiet():
                image = reader(stream)
                # First: of a PNG, Pillow decodes the whole to find its EXIF.
                _check_size(path, image, max_side)
                _orientation(image)  # parsed here, where its warnings are held back, and kept
                return image
    raise problem(path, f"not a photograph; expected one of the kinds {' '.join(PHOTO_SUFFIXES)}")


def _check_size(path: Path, image: ImageFile.ImageFile, max_side: int) -> None:
    width, height = image.size
    if max(width, height) > max_side:
        raise problem(
            path,
            f"{width} x {height} pixels; expected at most {max_side} a side "
            "(--max-side raises the limit)",
        )


def _read_image(image: Image.Image) -> npt.NDArray[np.uint8]:
    name = Path(getattr(image, "filename", None) or "PIL image")
    if not all(image.size):
        raise problem(name, f"{image.width} x {image.height} pixels; expected at least 1 x 1")
    with _blaming(name, f"damaged image of mode {image.mode}"):
        image.load()
        return _convert_and_turn(name, image)


def _convert_and_turn(path: Path, image: Image.Image) -> npt.NDArray[np.uint8]:
    rgb = _convert_to_rgb(path, image)
    turn = _TURNS.get(_orientation(image))
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _decode(image: ImageFile.ImageFile) -> None:
    # Pillow's TIFF reader alone parses tags again, with warnings, and applies Pillow's own limit.
    is_tiff = image.format == "TIFF"
    with _quiet() if is_tiff else nullcontext(), _unlimited() if is_tiff else nullcontext():
        image.load()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a photograph with broken EXIF is shown unturned by every viewer
        return 1


def _turned_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # some Pillows have swapped .size already
        width, height = (
            int(image.tag_v2[tag]) for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength)
        )
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def _convert_to_rgb(path: Path, image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise problem(path, "floating-point pixels; expected 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray(_scale_grey(path, np.asarray(image))).convert("RGB")
    if image.mode.endswith(("A", "a")) or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def _scale_grey(path: Path, grey: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise problem(
            path, f"grey from {values.min()} to {values.max()}; expected 16 bits, 0 to 65535"
        )
    return ((values + 128) // 257).astype(np.uint8)  # v / 257 rounded: 65535 becomes 255


@contextmanager
def _blaming(path: Path, what: str) -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file (its readers raise nearly anything) into ours."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as error:
        told = problem(path, "out of memory; expected a smaller photograph, or more memory")
        raise MemoryShortageError(str(told)) from error
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise problem(path, f"{what} ({reason}); expected a whole photograph") from error


@contextmanager
def _quiet() -> Iterator[None]:
    with _PILLOW, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _unlimited() -> Iterator[None]:
    """Lift Pillow's own pixel limit; to be used inside `_quiet`, which lets in one thread."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
