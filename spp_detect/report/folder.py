"""What `detect` leaves: json, csv, drawn photographs and a page of them."""

from __future__ import annotations

import csv
import io
import logging
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data import DEFAULT_MAX_SIDE, DataError, find_photographs, read_photo
from eval import Detections
from spp_detect.detector import PhotoDetector
from spp_detect.files import write_json, write_text
from spp_detect.progress import track
from spp_detect.report.drawing import draw_detections, save_image
from spp_detect.report.page import Figure, render_page

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 30.0


class FolderReport:
    """Collects the detections of a folder of photographs.

    Parameters
    ----------
    root : paths are told relative to it.
    out : gets detections.json, detections.csv, drawn/ and index.html.
    classes : names of the classes.
    """

    def __init__(self, root: Path, out: Path, classes: tuple[str, ...]) -> None:
        self.root = root
        self.out = out
        self.classes = classes
        self.skipped: list[str] = []
        self._results: list[dict[str, Any]] = []
        self._figures: list[Figure] = []

    def add(self, path: Path, found: Detections, max_side: int) -> None:
        """Take one photograph's detections and draw them."""
        name = path.relative_to(self.root).as_posix() if path != self.root else path.name
        for box, score, label in zip(found.boxes.tolist(), found.scores, found.labels, strict=True):
            x1, y1, x2, y2 = (round(value, 2) for value in box)
            self._results.append(
                {
                    "image_id": name,
                    "category_id": int(label) + 1,
                    "category": self.classes[int(label)],
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "score": round(float(score), 5),
                }
            )
        drawn = f"drawn/{name}.jpg"
        image = draw_detections(read_photo(path, max_side), found, self.classes)
        save_image(image, self.out / drawn)
        objects = ", ".join(self.classes[int(label)] for label in found.labels) or "nothing found"
        self._figures.append(Figure(quote(drawn), name, objects))

    def skip(self, error: DataError) -> None:
        """Note a photograph that could not be read."""
        logger.warning("skipped: %s", error)
        self.skipped.append(str(error))

    def save(self) -> None:
        """Write what is known so far, each file whole."""
        write_json(self.out / "detections.json", self._results)
        write_text(self.out / "detections.csv", self._csv())
        facts = {
            "photographs": str(len(self._figures)),
            "detections": str(len(self._results)),
            "skipped": str(len(self.skipped)),
        }
        page = render_page("Detections", facts, [("Photographs", self._figures)], self.skipped)
        write_text(self.out / "index.html", page)

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["photograph", "class", "score", "x1", "y1", "x2", "y2"])
        for result in self._results:
            x, y, width, height = result["bbox"]
            corners = (x, y, round(x + width, 2), round(y + height, 2))
            writer.writerow([result["image_id"], result["category"], result["score"], *corners])
        return text.getvalue()


def report_folder(
    detector: PhotoDetector,
    folder: Path,
    out: Path,
    min_score: float,
    max_side: int = DEFAULT_MAX_SIDE,
) -> int:
    """Detect on a folder and write what was found; what is done is saved along the way.

    Parameters
    ----------
    detector : a loaded model, or several together.
    folder : photographs, in folders of any depth, or a single one.
    out : gets detections.json (COCO results), detections.csv, drawn/ and index.html.
    min_score : least score of a detection.
    max_side : largest side of a photograph in pixels.

    Returns
    -------
    How many photographs could not be read; each is logged.
    """
    paths = find_photographs(folder)
    report = FolderReport(folder, out, detector.classes)
    saved = time.monotonic()
    try:
        for path, found in track(detector.detect_paths(paths, max_side), "detection", len(paths)):
            if isinstance(found, DataError):
                report.skip(found)
                continue
            above = found.scores >= min_score
            report.add(path, Detections(*(column[above] for column in found)), max_side)
            if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                report.save()
                saved = time.monotonic()
    finally:
        report.save()
    return len(report.skipped)
