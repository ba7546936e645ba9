"""The page of what was found in a folder: one html file that works from the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

TEMPLATE = Path(__file__).with_name("gallery.html")


@dataclass(frozen=True)
class GalleryPhotograph:
    """A photograph of the gallery.

    Attributes
    ----------
    name : str
        As it is shown.
    thumbnail, view, original : str
        Quoted addresses relative to the page: two sizes of pictures, and the file itself.
    width, height : int
        Of the photograph in pixels.
    boxes : list of [class, score, x1, y1, x2, y2]
        Best first, in pixels of the photograph.
    """

    name: str
    thumbnail: str
    view: str
    original: str
    width: int
    height: int
    boxes: list[list[float]]


@dataclass(frozen=True)
class Gallery:
    """All that the page shows.

    Attributes
    ----------
    summary : str
        One line.
    classes : sequence of str
        Names of the classes.
    photographs : sequence of GalleryPhotograph
        In the order of their names.
    failures : sequence of str
        What could not be read, a line each.
    settings : dict of str to str
        How it was made.
    least_score : float
        Of the detections.
    first_score : float
        Where the slider stands at first.
    score_name : str
        What the scores are.
    """

    summary: str
    classes: Sequence[str]
    photographs: Sequence[GalleryPhotograph]
    failures: Sequence[str] = ()
    settings: dict[str, str] = field(default_factory=dict)
    least_score: float = 0.0
    first_score: float = 0.0
    score_name: str = "Least score"


def render_gallery(gallery: Gallery) -> str:
    """Render the page; whatever names and words hold is text to it, never markup."""
    data = {
        "summary": gallery.summary,
        "classes": [*gallery.classes],
        "photographs": [asdict(one) for one in gallery.photographs],
        "failures": [*gallery.failures],
        "settings": gallery.settings,
        "leastScore": gallery.least_score,
        "firstScore": gallery.first_score,
        "scoreName": gallery.score_name,
    }
    # Within a script element only "<" could end it or begin anything.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    return TEMPLATE.read_text(encoding="utf-8").replace("{{DATA}}", text)
