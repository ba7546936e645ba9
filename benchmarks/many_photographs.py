"""Train on more and more photographs of 80 classes: seconds of each stage, memory and disk.

    python benchmarks/many_photographs.py DATA WEIGHTS --work runs/scaling \
        --out results/benchmarks/many_photographs.json

The photographs are those of a labelled set, again and again, each time another part of one, turned
by a quarter more than the photograph before, and than the last time; a class's name has the turn in
it, so that 20 classes are 80. A training that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from timing import write_result

from data import LabelledSet, Photograph, open_dataset, read_photo

TURNS = ("upright", "left", "upside down", "right")
SHORT_SIDE = 200
LEAST_PART = 0.7  # of a photograph's width and height
LEAST_SIDE = 8  # of a box, in pixels
MOMENT = 2.0  # seconds from one reading of the disk to the next


def make_set(source: LabelledSet, count: int, folder: Path) -> Path:
    """Write photographs and a COCO file: the path of the file."""
    path = folder / f"{count}.json"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"images": [], "annotations": []}
    told["categories"] = [
        {"id": k, "name": f"{name} {TURNS[k % len(TURNS)]}"}
        for k, name in enumerate(name for name in source.classes for _ in TURNS)
    ]
    for i in range(count):
        turn = (i + i // len(source)) % len(TURNS)
        photo, boxes, labels = _cut(source.photographs[i % len(source)], turn, i)
        name = f"{i:06d}.jpg"
        if not (folder / name).is_file():
            photo.save(folder / name, quality=90)
        width, height = photo.size
        told["images"].append({"id": i, "file_name": name, "width": width, "height": height})
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            own = {"id": len(told["annotations"]), "image_id": i}
            told["annotations"].append(own | box | {"category_id": label * len(TURNS) + turn})
    path.write_text(json.dumps(told))
    return path


def _cut(labelled: Photograph, turn: int, seed: int) -> tuple[Image.Image, Any, Any]:
    """Cut a part out of a photograph, make it small and turn it, with the boxes that lie in it."""
    random = np.random.default_rng(seed)
    photo = read_photo(labelled.path)
    size = np.array(photo.shape[1::-1])
    part = (size * random.uniform(LEAST_PART, 1, 2)).astype(int)
    corner = (random.uniform(0, 1, 2) * (size - part)).astype(int)
    factor = SHORT_SIDE / part.min()
    easy = labelled.labels.easy
    boxes = (easy.boxes.reshape(-1, 2, 2) - corner).clip(0, part).reshape(-1, 4) * factor
    large = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf) >= LEAST_SIDE
    boxes = boxes[large]
    (x, y), (width, height) = corner, part
    cut = Image.fromarray(photo[y : y + height, x : x + width])
    cut = cut.resize(tuple((part * factor).round().astype(int)))
    for _ in range(turn):
        x1, y1, x2, y2 = boxes.T
        boxes = np.stack([y1, cut.width - x2, y2, cut.width - x1], axis=1)
        cut = cut.transpose(Image.Transpose.ROTATE_90)
    return cut, boxes, easy.classes[large]


def train(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train as one would, the disk watched."""
    run = arguments.work / path.stem
    command = [sys.executable, "-m", "spp_detect", "train"]
    if (run / "run.json").is_file():
        command += ["--resume", "--out", str(run)]
    else:
        command += [str(path), "--out", str(run), "--weights", str(arguments.weights)]
        command += ["--backbone", "resnet18", "--scales", str(arguments.scale)]
    command += ["--memory", str(arguments.memory), "--map-budget", str(arguments.map_budget)]
    most = 0
    process = subprocess.Popen(command)
    while process.poll() is None:
        time.sleep(MOMENT)
        most = max(most, measure_disk(run))
    if process.returncode:
        raise SystemExit(process.returncode)
    numbers = json.loads((run / "metrics.json").read_text())
    return {
        "photographs": numbers["photographs"],
        "stages": numbers["stages"],
        "peak_memory_gb": numbers["record"]["peak_memory_gb"],
        "peak_disk_gb": round(most / 1e9, 3),
        "commit": numbers["record"]["commit"],
    }


def measure_disk(folder: Path) -> int:
    """Bytes of all files of a run, of which some may go while they are counted."""
    most = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                most += (Path(place) / name).stat().st_blocks * 512
            except FileNotFoundError:
                continue
    return most


def main() -> None:
    """Make, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path, help="of the ResNet-18")
    parser.add_argument("--split", default="trainval")
    parser.add_argument("--counts", default="2000,20000")
    parser.add_argument("--scale", type=int, default=320, help="short side, in pixels")
    parser.add_argument("--memory", type=float, default=2.0, help="of `train`, in GB")
    parser.add_argument("--map-budget", type=float, default=4.0, help="of `train`, in GB")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    source = open_dataset(arguments.data, arguments.split)
    told = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {"trainings": {}}
    for count in arguments.counts.split(","):
        if count not in told["trainings"]:
            path = make_set(source, int(count), arguments.work / "photographs")
            told["trainings"][count] = train(path, arguments)
            given = {key: str(value) for key, value in vars(arguments).items()}
            write_result(arguments.out, told | {"settings": given})


if __name__ == "__main__":
    main()
