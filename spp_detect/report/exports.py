"""What was found in photographs in other programs' formats, and as pictures of its own."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eval import Detections, quote_spaces, write_comp
from spp_detect.files import write_text
from spp_detect.report.drawing import draw_detections, save_image
from spp_detect.report.names import make_safe


@dataclass(frozen=True)
class Found:
    """A photograph and what was found in it.

    Attributes
    ----------
    name : str
        Its path below the folder, as it is told.
    photo : uint8 (H, W, 3)
        RGB.
    detections : Detections
        Best first.
    """

    name: str
    photo: NDArray[np.uint8]
    detections: Detections


class Export(ABC):
    """Writes one format into a folder of its own.

    Parameters
    ----------
    folder : Path
        Gets a file, or some, of each photograph; what else lies there is removed at the end.
    classes : tuple of str
        Names of the classes.
    """

    ends = ("",)  # of its files' names

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        self.folder = folder
        self.classes = classes
        self.written: set[Path] = set()

    @abstractmethod
    def add(self, found: Found) -> None:
        """Write one photograph's."""

    def finish(self) -> None:
        """Write what is of all photographs, and remove what an earlier run left."""
        for end in self.ends:
            for path in self.folder.rglob(f"*{end}"):
                if path not in self.written and path.is_file():
                    path.unlink()

    def claim(self, name: str) -> Path:
        """Find the place of a file, which stays."""
        path = self.folder / make_safe(name)
        assert ".." not in path.relative_to(self.folder).parts
        self.written.add(path)
        return path

    def claim_beside(self, name: str, end: str) -> Path:
        """Find the place of a file named as a photograph is, but for the end.

        Of a.jpg and a.png in one folder the second's is a.png and the end.
        """
        stem = name.rpartition(".")[0] or name
        if self.folder / make_safe(stem + end) in self.written:
            stem = name
        return self.claim(stem + end)


class Drawings(Export):
    """Copies of the photographs with their boxes: NAME.jpg."""

    ends = (".jpg",)

    def add(self, found: Found) -> None:
        """Draw one photograph."""
        drawn = draw_detections(found.photo, found.detections, self.classes)
        save_image(drawn, self.claim(f"{found.name}.jpg"))


class Pictures(Export):
    """The photographs, their longer sides at most so many pixels: NAME.jpg.

    Parameters
    ----------
    folder, classes : Path, tuple of str
        As of an Export.
    side : int
        Pixels.
    """

    ends = (".jpg",)

    def __init__(self, folder: Path, classes: tuple[str, ...], side: int) -> None:
        super().__init__(folder, classes)
        self.side = side

    def add(self, found: Found) -> None:
        """Save one photograph."""
        image = Image.fromarray(found.photo)
        image.thumbnail((self.side, self.side))
        save_image(image, self.claim(f"{found.name}.jpg"))


class Crops(Export):
    """What is in each box, in a folder of its class: CLASS/NAME-NUMBER.jpg."""

    ends = (".jpg",)

    def add(self, found: Found) -> None:
        """Save the boxes of one photograph, the best first."""
        image = Image.fromarray(found.photo)
        for i, (box, _, label) in enumerate(found.detections, 1):
            x1, y1 = np.floor(box[:2]).astype(int).tolist()
            x2, y2 = np.ceil(box[2:]).astype(int).tolist()
            if x2 > x1 and y2 > y1:
                place = f"{name_folder(self.classes[label])}/{found.name}-{i}.jpg"
                save_image(image.crop((x1, y1, x2, y2)), self.claim(place))


class VocAnnotations(Export):
    """VOC's annotations, as labelling tools open them: NAME.xml, scores in <score>."""

    ends = (".xml",)

    def add(self, found: Found) -> None:
        """Write one photograph's."""
        root = Element("annotation")
        SubElement(root, "filename").text = found.name
        height, width = found.photo.shape[:2]
        size = SubElement(root, "size")
        for key, value in (("width", width), ("height", height), ("depth", 3)):
            SubElement(size, key).text = str(value)
        for box, score, label in found.detections:
            one = SubElement(root, "object")
            SubElement(one, "name").text = self.classes[label]
            SubElement(one, "difficult").text = "0"
            SubElement(one, "score").text = f"{score:.5f}"
            corners = SubElement(one, "bndbox")
            x1, y1, x2, y2 = box.tolist()  # VOC's are 1-based and inclusive
            ends = max(x2, x1 + 1), max(y2, y1 + 1)  # of a box below a pixel, the pixel
            values = {"xmin": x1 + 1, "ymin": y1 + 1, "xmax": ends[0], "ymax": ends[1]}
            for key, value in values.items():
                SubElement(corners, key).text = f"{value:.2f}"
        indent(root)
        write_text(self.claim_beside(found.name, ".xml"), tostring(root, encoding="unicode") + "\n")


class YoloLabels(Export):
    """YOLO's labels: labels/NAME.txt, lines of class x y width height score; classes.txt."""

    ends = (".txt",)

    def add(self, found: Found) -> None:
        """Write one photograph's."""
        height, width = found.photo.shape[:2]
        lines = []
        for box, score, label in found.detections:
            x1, y1, x2, y2 = (box / [width, height, width, height]).tolist()
            numbers = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, score
            lines.append(f"{label} " + " ".join(f"{number:.6f}" for number in numbers) + "\n")
        write_text(self.claim_beside(f"labels/{found.name}", ".txt"), "".join(lines))

    def finish(self) -> None:
        """Write the classes' names."""
        write_text(self.claim("classes.txt"), "".join(f"{name}\n" for name in self.classes))
        super().finish()


class CompFiles(Export):
    """VOC's comp4 files, one a class; white space in names stands as in an address, %20."""

    ends = (".txt",)

    def __init__(self, folder: Path, classes: tuple[str, ...]) -> None:
        super().__init__(folder, classes)
        self.names: list[str] = []
        self.known: set[str] = set()
        self.detections: list[Detections] = []

    def add(self, found: Found) -> None:
        """Keep one photograph's for the end."""
        stem, whole = map(quote_spaces, (found.name.rpartition(".")[0], found.name))
        self.names.append(whole if stem in self.known else stem)
        self.known.add(self.names[-1])
        self.detections.append(found.detections)

    def finish(self) -> None:
        """Write all."""
        paths = write_comp(self.folder, self.detections, self.names, self.classes, split="all")
        self.written.update(paths)
        super().finish()


def name_folder(name: str) -> str:
    """Name a folder after a class, whatever it is called: in an address's way, and never empty."""
    quoted = quote(name, safe=" ")
    return quoted if quoted.strip(". ") else quoted.replace(".", "%2E") + "_"


def write_line(
    name: str,
    size: tuple[int, int],
    detections: Detections,
    classes: tuple[str, ...],
    probabilities: Sequence[float] | None = None,
) -> str:
    """Write a photograph of (width, height) and what was found in it as one line of json."""
    found: list[dict[str, Any]] = [
        {"class": classes[label], "score": round(score, 5), "box": round_box(box)}
        for box, score, label in detections
    ]
    for one, probability in zip(found, probabilities or (), strict=False):
        one["probability"] = round(probability, 5)
    values = {"photograph": name, "width": size[0], "height": size[1], "detections": found}
    return json.dumps(values)


def round_box(box: NDArray[np.floating]) -> list[float]:
    """Round a box to hundredths of a pixel: x1, y1, x2, y2."""
    return [round(value, 2) for value in box.tolist()]


EXPORTS: dict[str, Callable[[Path, tuple[str, ...]], Export]] = {
    "drawn": Drawings,
    "crops": Crops,
    "voc": VocAnnotations,
    "yolo": YoloLabels,
    "comp4": CompFiles,
}
