"""Boxes drawn on photographs."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from eval import Detections
from spp_detect.files import replace_file


def draw_detections(
    photo: NDArray[np.uint8], found: Detections, classes: Sequence[str]
) -> Image.Image:
    """Draw boxes with class and score, the surest on top.

    Parameters
    ----------
    photo : uint8 (H, W, 3)
        RGB.
    found : Detections
        Best first.
    classes : sequence of str
        Names of the classes.

    Returns
    -------
    PIL.Image.Image
        A copy, drawn on.
    """
    image = Image.fromarray(photo)
    pen = ImageDraw.Draw(image)
    unit = max(1, round(min(image.size) / 200))
    font = ImageFont.load_default(size=max(9, round(min(image.size) / 28)))
    for box, score, label in found[::-1]:
        colour = pick_colour(label, len(classes))
        x1, y1, x2, y2 = box.tolist()
        pen.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=unit)
        text = f"{classes[label]} {score:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        width, height = right - left + 2 * unit, bottom - top + 2 * unit
        x = min(max(0, x1), max(0, image.width - width))
        y = y1 - height if y1 >= height else y1
        pen.rectangle((x, y, x + width, y + height), fill=colour)
        pen.text((x + unit - left, y + unit - top), text, fill="black", font=font)
    return image


def join_images(images: Sequence[Image.Image], columns: int, width: int) -> Image.Image:
    """Join pictures in rows of equal height, each row `width` pixels wide, on white."""
    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    heights = [round(width / sum(i.width / i.height for i in row)) for row in rows]
    sheet = Image.new("RGB", (width, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for image in row:
            scaled = image.resize((round(image.width * height / image.height), height))
            sheet.paste(scaled, (left, top))
            left += scaled.width
        top += height
    return sheet


def save_image(image: Image.Image, path: Path) -> None:
    """Save a picture whole or not at all."""
    with replace_file(path) as temporary:
        image.save(temporary, quality=88)


def pick_colour(index: int, count: int) -> tuple[int, int, int]:
    """Pick a light colour for one of `count` classes."""
    red, green, blue = colorsys.hls_to_rgb(index / max(1, count), 0.62, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)
