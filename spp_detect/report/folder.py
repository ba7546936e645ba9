"""What `detect` leaves: json, csv, drawn photographs and a page of them."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

from data import DataError, read_photo
from eval import Detections
from spp_detect.files import write_json, write_text
from spp_detect.report.drawing import draw_detections, save_image
from spp_detect.report.page import Figure, render_page

logger = logging.getLogger(__name__)


class FolderReport:
    """Collects the detections of a folder of photographs.

    Parameters
    ----------
    root : Path
        Paths are told relative to it.
    out : Path
        Gets detections.json, detections.csv, drawn/ and index.html.
    classes : tuple of str
        Names of the classes.
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
        for box, score, label in found:
            x1, y1, x2, y2 = (round(value, 2) for value in box.tolist())
            self._results.append(
                {
                    "image_id": name,
                    "category_id": label + 1,
                    "category": self.classes[label],
                    "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                    "score": round(score, 5),
                }
            )
        drawn = f"drawn/{name}.jpg"
        image = draw_detections(read_photo(path, max_side), found, self.classes)
        save_image(image, self.out / drawn)
        objects = ", ".join(self.classes[label] for label in found.labels) or "nothing found"
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
