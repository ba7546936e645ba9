"""What was detected so far, photograph by photograph, for a run that is taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from eval import Detections
from spp_detect.files import write_text

NAME = "journal.jsonl"


class Journal:
    """A line of json for each photograph, written as soon as it is detected in.

    Its first line says of what run it is; a last line that was cut off is passed over.

    Parameters
    ----------
    path : Path
        The file.
    identity : dict
        What decides what is found in a photograph.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.known: dict[str, tuple[list[int], Detections]] = {}

    def begin(self) -> None:
        """Start anew."""
        write_text(self.path, json.dumps(self.identity) + "\n")

    def restore(self) -> str | None:
        """Read what an earlier run found; say why not where that was another, or there was none."""
        if not self.path.is_file():
            return "there is no earlier run there to go on with"
        first, *lines = self.path.read_text(encoding="utf-8", errors="replace").split("\n")
        whole = lines[:-1]  # after the last line break there is nothing, or a line cut off
        try:
            if json.loads(first or "{}") != self.identity:
                return "the earlier run was of another model or other settings"
            for line in whole:
                self._take(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            return f"{NAME} is damaged ({error})"
        write_text(self.path, "\n".join([first, *whole]) + "\n")
        return None

    def _take(self, entry: dict[str, Any]) -> None:
        boxes = np.array(entry["boxes"], np.float32).reshape(-1, 4)
        scores, labels = np.array(entry["scores"], np.float32), np.array(entry["labels"], int)
        self.known[entry["photograph"]] = entry["stamp"], Detections(boxes, scores, labels)

    def find(self, name: str, stamp: list[int] | None) -> Detections | None:
        """Find what was found in a photograph, if it was and its file has the same stamp still."""
        before, found = self.known.get(name, (None, None))
        return found if before is not None and before == stamp else None

    def add(self, name: str, stamp: list[int] | None, found: Detections) -> None:
        """Write down what was found in a photograph whose file had a stamp before it was read."""
        entry = {
            "photograph": name,
            "stamp": stamp,
            "boxes": found.boxes.tolist(),
            "scores": found.scores.tolist(),
            "labels": found.labels.tolist(),
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def find_stamp(path: Path) -> list[int] | None:
    """Size and time of a file, by which a change is told; None for one that is gone."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]
