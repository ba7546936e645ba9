"""What `detect` leaves: json, csv, and a page with its pictures."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from data import DataError, read_photo
from eval import Detections
from spp_detect.files import write_json, write_text
from spp_detect.report.exports import EXPORTS, Found, Pictures, round_box
from spp_detect.report.gallery import Gallery, GalleryPhotograph, render_gallery
from spp_detect.report.names import make_readable, make_safe, name_below

logger = logging.getLogger(__name__)

PAGE = "index.html"
GENERATOR = '<meta name="generator" content="spp-detect">'  # by which a page is known as ours
LIKELY = 0.5  # the probability at which the page's slider stands at first
THUMBNAILS, VIEWS = "thumbnails", "views"  # folders of pictures
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
    exports : sequence of str
        Names of EXPORTS, each of which gets a folder of that name.

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
        exports: Sequence[str] = (),
    ) -> None:
        self.root = root
        self.out = out
        self.classes = classes
        self.least_score = least_score
        self._thumbnails = Pictures(out / THUMBNAILS, classes, THUMBNAIL_SIDE)
        self._views = Pictures(out / VIEWS, classes, VIEW_SIDE)
        self._exports = [EXPORTS[name](out / name, classes) for name in exports]
        self.calibrated = False
        self.settings: dict[str, str] = {}
        self.skipped: list[str] = []
        self._results: list[dict[str, Any]] = []
        self._photographs: list[GalleryPhotograph] = []
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

    def add(
        self,
        path: Path,
        found: Detections,
        max_side: int,
        probabilities: Sequence[float] | None = None,
    ) -> None:
        """Take one photograph's detections, and how likely each is right where that is known.

        Raises
        ------
        DataError
            For a photograph that can no longer be read.
        """
        photograph = Found(name_below(path, self.root), read_photo(path, max_side), found)
        height, width = photograph.photo.shape[:2]
        name = photograph.name
        for export in (self._thumbnails, self._views, *self._exports):
            export.add(photograph)
        shown = probabilities if probabilities is not None else found.scores.tolist()
        self.calibrated = probabilities is not None
        order = np.argsort(-np.array(shown), kind="stable").tolist()
        boxes = [
            [int(found.labels[i]), round(shown[i], 5), *round_box(found.boxes[i])] for i in order
        ]
        self._photographs.append(
            GalleryPhotograph(
                name,
                quote(make_safe(f"{THUMBNAILS}/{name}.jpg")),
                quote(make_safe(f"{VIEWS}/{name}.jpg")),
                quote(os.fsencode(os.path.relpath(path, self.out))),
                width,
                height,
                boxes,
            )
        )
        for i, (box, score, label) in enumerate(found):
            x1, y1, x2, y2 = round_box(box)
            result = {
                "image_id": name,
                "category_id": label + 1,
                "category": self.classes[label],
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "score": round(score, 5),
            }
            if probabilities is not None:
                result["probability"] = round(probabilities[i], 5)
            self._results.append(result)
        self._account.append((name, len(found), ""))

    def skip(self, path: Path, error: DataError) -> None:
        """Note a photograph that could not be read."""
        told = make_readable(str(error))
        logger.warning("skipped: %s", told)
        self.skipped.append(told)
        self._account.append((name_below(path, self.root), 0, told))

    def save(self) -> None:
        """Write what is known so far, each file whole."""
        write_json(self.out / "detections.json", self._results)
        write_text(self.out / "detections.csv", self._csv())
        rows = (("photograph", "detections", "error"), *self._account)
        write_text(self.out / "photographs.csv", _write_csv(rows))
        self._write_page()

    def finish(self) -> None:
        """Write everything and remove the files of an earlier run that this one has not."""
        self.save()
        for export in (self._thumbnails, self._views, *self._exports):
            export.finish()

    def _write_page(self) -> None:
        gallery = Gallery(
            self.summary,
            self.classes,
            self._photographs,
            self.skipped,
            self.settings,
            0.0 if self.calibrated else self.least_score,
            LIKELY if self.calibrated else self.least_score,
            "Least probability" if self.calibrated else "Least score",
        )
        write_text(self.out / PAGE, render_gallery(gallery))

    def _csv(self) -> str:
        heading = ("photograph", "class", "score", "x1", "y1", "x2", "y2", "probability")
        rows: list[tuple[Any, ...]] = [heading[: None if self.calibrated else -1]]
        for result in self._results:
            x, y, width, height = result["bbox"]
            corners = (x, y, round(x + width, 2), round(y + height, 2))
            probability = (result["probability"],) if self.calibrated else ()
            own = result["image_id"], result["category"], result["score"], *corners, *probability
            rows.append(own)
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


def _write_csv(rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
