"""A small labelled set drawn by code, for demonstrations and tests without a download."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from data.errors import problem

SYNTHETIC_CLASSES = ("cross", "disc", "ring", "star", "triangle")

MARK = "synthetic.json"  # is in each set that was made
_SUBPIXEL_BITS = 4
_MARGIN = 80  # drawn beyond each border, for the true size of shapes cut by it
_CONTRAST = 110  # least distance in RGB between a shape's colour and what lies behind it
_JPEG_QUALITY = 90
_MIN_VISIBLE_PIXELS = 40  # with less in sight an object is not labelled at all
_DIFFICULT_SHARE = 0.4  # with less than this share in sight it is difficult,
_DIFFICULT_SIDE = 28  # as it is when its box's longer side is shorter than this

_Array = npt.NDArray[np.float32]
_Mask = npt.NDArray[np.bool_]
_Points = npt.NDArray[np.float64]


class _Drawn(NamedTuple):
    """An object as it ended up in its photograph."""

    class_name: str
    visible: _Mask  # (H, W)
    share: float  # visible pixels over those of the whole shape
    truncated: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight around the visible pixels: x1 y1 x2 y2, 0-based, half-open."""
        rows, columns = np.nonzero(self.visible.any(1))[0], np.nonzero(self.visible.any(0))[0]
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @property
    def difficult(self) -> bool:
        """Mostly hidden or very small."""
        x1, y1, x2, y2 = self.box
        return self.share < _DIFFICULT_SHARE or max(x2 - x1, y2 - y1) < _DIFFICULT_SIDE


def make_synthetic_set(
    out: Path | str, *, train: int = 160, val: int = 40, test: int = 100, seed: int = 0
) -> Path:
    """Make a VOC folder of drawn photographs of five shapes and return its path.

    Each photograph (about 320 x 240, a quarter of them upright) shows 1 to 4 objects of the classes
    in `SYNTHETIC_CLASSES` on a textured background, among shapes that are no class. Size, aspect,
    rotation, colour and texture vary and are drawn alike for all classes, so that the shape alone
    tells them apart. Objects hide one another and leave the photograph; mostly hidden and very
    small ones are difficult. Boxes are tight around the pixels in sight.

    The same arguments give the same bytes on the same machine, and a photograph depends on the
    seed, its split and its number alone. The folder appears whole or not at all; one already made
    with the same arguments is kept as it is.

    Parameters
    ----------
    out : path
        The folder to make; missing folders above it are made too.
    train, val, test : int
        Photographs in each split, at least 1; trainval is train and val. From 5 on a split has
        every class.
    seed : int
        Not negative.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    DataError
        A count is below 1, the seed is negative, or ``out`` cannot be written or exists and holds
        something else.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = make_synthetic_set(f"{folder}/voc", train=2, val=1, test=1)
    ...     sorted(path.name for path in root.glob("JPEGImages/*"))
    ['test_00000.jpg', 'train_00000.jpg', 'train_00001.jpg', 'val_00000.jpg']
    """
    out = Path(out)
    counts = {"train": train, "val": val, "test": test}
    for name, value, least in (*((k, v, 1) for k, v in counts.items()), ("seed", seed, 0)):
        if value < least:
            raise problem(out, f"{name} is {value}; expected at least {least}")
    mark = json.dumps({**counts, "seed": seed}) + "\n"
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if (out / MARK).is_file() and (out / MARK).read_text(encoding="utf-8") == mark:
            return out
        raise problem(out, "exists; expected a new folder or a set made with the same arguments")
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_set(part, counts, seed, mark)
        part.replace(out)
    except OSError as error:
        raise problem(out, f"cannot be written ({error}); expected a writable place") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _write_set(root: Path, counts: dict[str, int], seed: int, mark: str) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    names = {split: [f"{split}_{i:05d}" for i in range(n)] for split, n in counts.items()}
    for number, split_names in enumerate(names.values()):
        for i, name in enumerate(split_names):
            rng = np.random.default_rng([seed, number, i])
            pixels, objects = _draw_scene(rng, SYNTHETIC_CLASSES[i % len(SYNTHETIC_CLASSES)])
            photo = root / "JPEGImages" / f"{name}.jpg"
            Image.fromarray(pixels).save(photo, quality=_JPEG_QUALITY)
            _write_annotation(root / "Annotations" / f"{name}.xml", photo, pixels.shape, objects)
    for split, ids in {**names, "trainval": names["train"] + names["val"]}.items():
        text = "".join(f"{name}\n" for name in ids)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(text, encoding="utf-8")
    (root / MARK).write_text(mark, encoding="utf-8")


def _write_annotation(
    path: Path, photo: Path, shape: tuple[int, ...], objects: list[_Drawn]
) -> None:
    root = Element("annotation")
    SubElement(root, "filename").text = photo.name
    size = SubElement(root, "size")
    for key, value in (("width", shape[1]), ("height", shape[0]), ("depth", shape[2])):
        SubElement(size, key).text = str(value)
    for drawn in objects:
        element = SubElement(root, "object")
        SubElement(element, "name").text = drawn.class_name
        SubElement(element, "truncated").text = str(int(drawn.truncated))
        SubElement(element, "difficult").text = str(int(drawn.difficult))
        bndbox = SubElement(element, "bndbox")
        x1, y1, x2, y2 = drawn.box
        corners = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": x2, "ymax": y2}  # 1-based, inclusive
        for key, value in corners.items():
            SubElement(bndbox, key).text = str(value)
    indent(root)
    ElementTree(root).write(path, encoding="utf-8")


def _draw_scene(
    rng: np.random.Generator, first_class: str
) -> tuple[npt.NDArray[np.uint8], list[_Drawn]]:
    """Draw one photograph, uint8 (H, W, 3); its first object is in plain sight."""
    width, height = int(rng.integers(280, 361)), int(rng.integers(210, 271))
    if rng.random() < 0.25:
        width, height = height, width
    scene = _Scene(rng, _draw_background(rng, height, width))
    for _ in range(rng.integers(0, 4)):
        scene.add_distractor()
    scene.add_object(first_class, in_sight=True)
    for _ in range(rng.integers(0, 4)):
        scene.add_object(str(rng.choice(SYNTHETIC_CLASSES)), in_sight=False)
    if rng.random() < 0.2:
        scene.add_line()
    return _develop(rng, scene.canvas), scene.drawn()


class _Scene:
    """A canvas and, for each of its pixels, the number of the object in sight there (0: none)."""

    def __init__(self, rng: np.random.Generator, canvas: _Array) -> None:
        self.rng = rng
        self.canvas = canvas
        self.owner: npt.NDArray[np.int32] = np.zeros(canvas.shape[:2], np.int32)
        self._whole: list[tuple[str, int, bool]] = []  # class, pixels of the shape, truncated

    def add_object(self, class_name: str, *, in_sight: bool) -> None:
        """Draw one object where it fits; one that finds no place is left out."""
        rng = self.rng
        height, width = self.owner.shape
        buries = len(self._whole) > 1 and rng.random() < 0.15
        for _ in range(60):
            tiny = not in_sight and rng.random() < 0.06
            diameter = rng.uniform(16, 26) if tiny else math.exp(rng.uniform(*np.log((44, 150))))
            # Every third object may reach over the border.
            inset = (0.15 if rng.random() < 0.3 else 0.52) * diameter
            centre = rng.uniform(inset, width - inset), rng.uniform(inset, height - inset)
            if buries:  # the last object, but for a part of it
                y, x = np.argwhere(self.owner == len(self._whole)).mean(0)
                centre = x + rng.normal(0, 0.2) * diameter, y + rng.normal(0, 0.2) * diameter
            alpha, whole = self._fill(_outline_class(rng, class_name), diameter, centre)
            mask = alpha > 0.5
            if mask.sum() < 0.5 * whole or not self._may_hide(mask, buries):
                continue
            self._paint(alpha)
            self._whole.append((class_name, whole, bool(mask.sum() < whole)))
            self.owner[mask] = len(self._whole)
            return

    def add_distractor(self) -> None:
        """Draw a shape of no class; it lies behind the objects, being drawn before them."""
        height, width = self.owner.shape
        centre = self.rng.uniform(0, width), self.rng.uniform(0, height)
        alpha, _ = self._fill([_outline_distractor(self.rng)], self.rng.uniform(25, 100), centre)
        if (alpha > 0.5).any():
            self._paint(alpha)

    def add_line(self) -> None:
        """Draw a thin line across everything, as a twig or a wire would be."""
        height, width = self.owner.shape
        (x1, y1), (x2, y2) = (self.rng.uniform(0, 1, (2, 2)) * (width, height)).astype(int).tolist()
        alpha = np.zeros((height, width), np.uint8)
        cv2.line(alpha, (x1, y1), (x2, y2), 255, int(self.rng.integers(1, 4)), cv2.LINE_AA)
        colour = self.rng.uniform(0, 255, 3).astype(np.float32)
        self._blend(slice(None), slice(None), alpha.astype(np.float32) / np.float32(255), colour)
        self.owner[alpha > 127] = 0

    def drawn(self) -> list[_Drawn]:
        """Return the objects with enough in sight to be labelled."""
        objects = []
        for number, (class_name, whole, truncated) in enumerate(self._whole, 1):
            visible = self.owner == number
            if visible.sum() >= _MIN_VISIBLE_PIXELS:
                share = float(visible.sum()) / whole
                objects.append(_Drawn(class_name, visible, share, truncated))
        return objects

    def _may_hide(self, mask: _Mask, buries: bool) -> bool:
        """Return whether what the mask hides leaves enough in sight of every object."""
        last = len(self._whole)
        for number, (_, whole, _) in enumerate(self._whole, 1):
            visible = self.owner == number
            left = (visible & ~mask).sum() / whole
            least = 0.1 if buries and number == last else 0.55
            if (visible & mask).any() and left < least:
                return False
        return True

    def _fill(
        self, outlines: list[_Points], diameter: float, centre: tuple[float, float]
    ) -> tuple[_Array, int]:
        """Return the opacity (H, W) of a turned, stretched shape and all its pixels' count."""
        # Turned before it is stretched too, so that the stretch goes along any axis of the shape.
        shear = _rotation(self.rng) @ np.diag((1, self.rng.uniform(0.72, 1))) @ _rotation(self.rng)
        place = np.array(centre) + _MARGIN
        points = [outline @ shear * (diameter / 2) + place for outline in outlines]
        rounded = [np.rint(p * 2**_SUBPIXEL_BITS).astype(np.int32) for p in points]
        height, width = self.owner.shape
        padded = np.zeros((height + 2 * _MARGIN, width + 2 * _MARGIN), np.uint8)
        cv2.fillPoly(padded, rounded, 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        seen = padded[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN].astype(np.float32) / np.float32(255)
        return seen, int((padded > 127).sum())

    def _paint(self, alpha: _Array) -> None:
        """Paint a shape in colours that stand out from what lies behind it."""
        rng = self.rng
        x, y, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
        rows, columns = slice(y, y + height), slice(x, x + width)
        behind = self.canvas[alpha > 0.5].mean(0)
        colours = rng.uniform(10, 245, (24, 3)).astype(np.float32)
        distances = np.linalg.norm(colours - behind, axis=1)
        colour = colours[int(np.argmax(distances > _CONTRAST))]
        texture = _draw_texture(rng, height, width, colour)
        alpha = alpha[rows, columns]
        if rng.random() < 0.4:
            rim = cv2.erode(alpha, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 3)))
            texture = texture * (1 - (1 - rim) * rng.uniform(0.3, 0.7))[..., None]
        self._blend(rows, columns, alpha, texture)

    def _blend(self, rows: slice, columns: slice, alpha: _Array, colours: _Array) -> None:
        share = alpha[..., None]
        self.canvas[rows, columns] = self.canvas[rows, columns] * (1 - share) + colours * share


def _outline_class(rng: np.random.Generator, class_name: str) -> list[_Points]:
    """Return a shape's outlines, each (K, 2), within the unit circle; a second one is a hole."""
    if class_name == "disc":
        return [_polygon(48)]
    if class_name == "ring":
        return [_polygon(48), _polygon(48) * rng.uniform(0.5, 0.68)]
    if class_name == "triangle":
        return [_polygon(3, jitter=rng.uniform(-0.22, 0.22, 3))]
    if class_name == "star":
        points = int(rng.integers(5, 7))
        radii = np.tile((1, rng.uniform(0.38, 0.5)), points)
        return [_polygon(2 * points) * radii[:, None]]
    arm, tip = rng.uniform(0.24, 0.38), 0.94
    half = ((arm, tip), (arm, arm), (tip, arm), (tip, -arm), (arm, -arm), (arm, -tip))
    return [np.array((*half, *((-x, -y) for x, y in half)))]


def _outline_distractor(rng: np.random.Generator) -> _Points:
    kind = rng.integers(3)
    if kind == 0:  # a bar or a box
        side = rng.uniform(0.15, 1)
        return np.array(((1, side), (1, -side), (-1, -side), (-1, side))) / math.hypot(1, side)
    if kind == 1:  # half a disc
        return _polygon(48)[:25]
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)  # a lobed blob
    twos = rng.uniform(0.1, 0.25) * np.sin(2 * angles + rng.uniform(0, 2 * math.pi))
    threes = rng.uniform(0.25, 0.4) * np.sin(3 * angles + rng.uniform(0, 2 * math.pi))
    radii = 1 + twos + threes
    return _polygon(48) * (radii / radii.max())[:, None]


def _polygon(corners: int, jitter: _Points | float = 0.0) -> _Points:
    angles = np.arange(corners) * (2 * math.pi / corners) + jitter
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


def _rotation(rng: np.random.Generator) -> _Points:
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array(((cos, sin), (-sin, cos)))


def _draw_texture(rng: np.random.Generator, height: int, width: int, colour: _Array) -> _Array:
    """Return colours (H, W, 3) around one: plain, shaded, striped, spotted or rough."""
    kind = rng.integers(5)
    if kind == 0:
        pattern = np.zeros((height, width), np.float32)
    elif kind == 1:
        pattern = _draw_waves(rng, height, width, 2.5 * max(height, width))
    elif kind == 2:
        pattern = np.sign(_draw_waves(rng, height, width, rng.uniform(6, 16)))
    elif kind == 3:
        pattern = np.sign(_draw_noise(rng, height, width, rng.uniform(4, 10)))
    else:
        pattern = _draw_noise(rng, height, width, rng.uniform(1, 6))
    depths = rng.uniform(8, 30) * rng.uniform(0.5, 1, 3).astype(np.float32)
    return colour + pattern[..., None] * depths


def _draw_background(rng: np.random.Generator, height: int, width: int) -> _Array:
    """Return a canvas (H, W, 3): a gradient, noise, stripes or blobs between two near colours."""
    first = rng.uniform(30, 225, 3).astype(np.float32)
    second = np.clip(first + rng.uniform(-70, 70, 3).astype(np.float32), 10, 245)
    kind = rng.integers(4)
    if kind == 0:
        pattern = _draw_waves(rng, height, width, rng.uniform(1.2, 2.5) * max(height, width))
    elif kind == 1:
        pattern = _draw_noise(rng, height, width, rng.uniform(8, 64))
        pattern = (pattern + _draw_noise(rng, height, width, rng.uniform(1, 8))) * np.float32(0.5)
    elif kind == 2:
        pattern = _draw_waves(rng, height, width, rng.uniform(8, 70)) * rng.uniform(1, 4)
    else:
        pattern = _draw_noise(rng, height, width, rng.uniform(12, 50)) * rng.uniform(1, 6)
    share = np.clip(0.5 + 0.5 * pattern, 0, 1)[..., None]
    grain = rng.uniform(0, 8) * _draw_noise(rng, height, width, rng.uniform(1, 4))
    return first * (1 - share) + second * share + grain[..., None]


def _draw_waves(rng: np.random.Generator, height: int, width: int, period: float) -> _Array:
    angle, phase = rng.uniform(0, 2 * math.pi, 2).tolist()
    pace = 2 * math.pi / period
    x = np.arange(width, dtype=np.float32) * (pace * math.cos(angle))
    y = np.arange(height, dtype=np.float32) * (pace * math.sin(angle))
    return np.sin(y[:, None] + x + phase)


def _draw_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> _Array:
    """Return smooth noise (H, W) about 0, of a deviation below 1, with grains of `cell` pixels."""
    size = math.ceil(height / cell) + 1, math.ceil(width / cell) + 1
    coarse = rng.standard_normal(size, np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def _develop(rng: np.random.Generator, canvas: _Array) -> npt.NDArray[np.uint8]:
    """Return the canvas as a camera would have it: uneven light, a little blur, sensor noise."""
    height, width = canvas.shape[:2]
    light = 1 + rng.uniform(0, 0.2) * _draw_waves(rng, height, width, 3 * max(height, width))
    lit = cv2.GaussianBlur(canvas * light[..., None], (0, 0), rng.uniform(0.3, 0.9))
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0, 6)
    return np.clip(np.rint(lit + noise), 0, 255).astype(np.uint8)
