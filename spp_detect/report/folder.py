"""What `detect` leaves: json, csv, and a page with its pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data import DataError, read_photo
from eval import Detections
from spp_detect.files import write_json, write_text
from spp_detect.report.drawing import draw_detections, save_image
from spp_detect.report.gallery import Gallery, GalleryPhotograph, render_gallery

logger = logging.getLogger(__name__)

LONGEST_NAME = 200  # bytes of a file's name: with what is added to it, within any file system's 255
LONGEST_SUFFIX = 16  # bytes: more is part of the name
PAGE = "index.html"
GENERATOR = '<meta name="generator" content="spp-detect">'  # by which a page is known as ours
THUMBNAILS, VIEWS, DRAWN = "thumbnails", "views", "drawn"  # folders of pictures
THUMBNAIL_SIDE, VIEW_SIDE = 400, 1600  # pixels


class ReportError(ValueError):
    """A folder that the results cannot be written to; one line says why."""


class FolderReport:
    """Collects the detections of a folder of photographs.

    Parameters
    ----------
    root : Path
        Paths are told relative to it.
    out : Path
        Gets detections.json, detections.csv, photographs.csv, index.html and its pictures.
    classes : tuple of str
        Names of the classes.
    least_score : float
        Of the detections.
    draw : bool
        Whether a copy of each photograph with its boxes is drawn, too.

    Attributes
    ----------
    settings : dict of str to str
        How it was made, for the page.

    Raises
    ------
    ReportError
        For an `out` that holds anything else than an earlier report.
    """

    def __init__(
        self,
        root: Path,
        out: Path,
        classes: tuple[str, ...],
        least_score: float,
        *,
        draw: bool = False,
    ) -> None:
        self.root = root
        self.out = out
        self.classes = classes
        self.least_score = least_score
        self.draw = draw
        self.settings: dict[str, str] = {}
        self.skipped: list[str] = []
        self._results: list[dict[str, Any]] = []
        self._photographs: list[GalleryPhotograph] = []
        self._pictures: set[Path] = set()
        self._account: list[tuple[str, int, str]] = []  # name, detections, error
        if out.exists() and not is_report(out) and (not out.is_dir() or any(out.iterdir())):
            raise ReportError(
                f"{out}: holds other files; expected a new folder, or of an earlier run"
            )
        if not is_report(out):
            self._write_page()  # marks the folder

    @property
    def count(self) -> int:
        """How many photographs there are so far."""
        return len(self._account)

    @property
    def summary(self) -> str:
        """How many photographs and detections there are, in words."""
        counts = [count for _, count, error in self._account if not error]
        empty = counts.count(0)
        return (
            f"{len(self._account)} photographs: {len(counts) - empty} with {sum(counts)} "
            f"detections, {empty} without, {len(self.skipped)} failed"
        )

    def add(self, path: Path, found: Detections, max_side: int) -> None:
        """Take one photograph's detections.

        Raises
        ------
        DataError
            For a photograph that can no longer be read.
        """
        name = self._name(path)
        photo = read_photo(path, max_side)
        image = Image.fromarray(photo)
        boxes = [[label, round(score, 5), *_round_box(box)] for box, score, label in found]
        self._photographs.append(
            GalleryPhotograph(
                name,
                self._save(image, name, THUMBNAILS, THUMBNAIL_SIDE),
                self._save(image, name, VIEWS, VIEW_SIDE),
                quote(os.fsencode(os.path.relpath(path, self.out))),
                image.width,
                image.height,
                boxes,
            )
        )
        if self.draw:
            self._save(draw_detections(photo, found, self.classes), name, DRAWN)
        for label, score, x1, y1, x2, y2 in boxes:
            self._results.append(
                {
                    "image_id": name,
                    "category_id": int(label) + 1,
                    "category": self.classes[int(label)],
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "score": score,
                }
            )
        self._account.append((name, len(found), ""))

    def skip(self, path: Path, error: DataError) -> None:
        """Note a photograph that could not be read."""
        told = make_readable(str(error))
        logger.warning("skipped: %s", told)
        self.skipped.append(told)
        self._account.append((self._name(path), 0, told))

    def save(self) -> None:
        """Write what is known so far, each file whole."""
        write_json(self.out / "detections.json", self._results)
        write_text(self.out / "detections.csv", self._csv())
        rows = (("photograph", "detections", "error"), *self._account)
        write_text(self.out / "photographs.csv", _write_csv(rows))
        self._write_page()

    def finish(self) -> None:
        """Write everything and remove the pictures of an earlier run that this one has not."""
        self.save()
        for folder in (THUMBNAILS, VIEWS, DRAWN):
            for path in self.out.glob(f"{folder}/**/*.jpg"):
                if path not in self._pictures:
                    path.unlink()

    def _save(self, image: Image.Image, name: str, folder: str, side: int | None = None) -> str:
        """Save a picture, its longer side at most `side`: its address, quoted."""
        address = make_safe(f"{folder}/{name}.jpg")
        if side is not None:
            image = image.copy()
            image.thumbnail((side, side))
        save_image(image, self.out / address)
        self._pictures.add(self.out / address)
        return quote(address)

    def _name(self, path: Path) -> str:
        relative = path.relative_to(self.root) if path != self.root else Path(path.name)
        return make_readable(relative.as_posix())

    def _write_page(self) -> None:
        gallery = Gallery(
            self.summary,
            self.classes,
            self._photographs,
            self.skipped,
            self.settings,
            self.least_score,
            self.least_score,
        )
        write_text(self.out / PAGE, render_gallery(gallery))

    def _csv(self) -> str:
        rows: list[tuple[Any, ...]] = [("photograph", "class", "score", "x1", "y1", "x2", "y2")]
        for result in self._results:
            x, y, width, height = result["bbox"]
            corners = (x, y, round(x + width, 2), round(y + height, 2))
            rows.append((result["image_id"], result["category"], result["score"], *corners))
        return _write_csv(rows)


def is_report(folder: Path) -> bool:
    """Whether a folder is what a `FolderReport` left, by the mark in its page."""
    try:
        with (folder / PAGE).open("rb") as page:
            return GENERATOR.encode() in page.read(1000)
    except OSError:
        return False


def leave_out_reports(paths: Iterable[Path], root: Path) -> list[Path]:
    """Leave out files that lie in folders of results below `root`: they are our own."""
    known: dict[Path, bool] = {root: False}

    def lies_in_report(folder: Path) -> bool:
        if folder not in known:
            known[folder] = lies_in_report(folder.parent) or is_report(folder)
        return known[folder]

    return [path for path in paths if path == root or not lies_in_report(path.parent)]


def make_readable(text: str) -> str:
    """Write bytes of a file's name that are no UTF-8 with a backslash, in hexadecimal."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def make_safe(path: str) -> str:
    """Shorten names in a relative path that no file system takes; they stay different."""
    return str(PurePosixPath(*map(_shorten, PurePosixPath(path).parts)))


def _shorten(name: str) -> str:
    if len(name.encode()) <= LONGEST_NAME:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if len(suffix.encode()) <= LONGEST_SUFFIX else ""
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    start = name.encode()[: LONGEST_NAME - len(suffix.encode()) - 17].decode(errors="ignore")
    return f"{start}-{digest}{suffix}"


def _round_box(box: NDArray[np.float32]) -> list[float]:
    return [round(value, 2) for value in box.tolist()]


def _write_csv(rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
