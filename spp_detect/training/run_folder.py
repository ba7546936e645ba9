"""The folder of a training run: what it was begun with, its history, what it took."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from data import LabelledSet
from proposals import BoxesFile
from spp_detect.backbones import Backbone
from spp_detect.files import write_text
from spp_detect.lock import NAME as LOCK
from spp_detect.provenance import record_run

logger = logging.getLogger(__name__)


class TrainingError(ValueError):
    """A run that cannot start or go on; one line says why."""


def proposal_folder(run: Path) -> Path:
    """Where a run keeps the windows that it proposed, for its evaluation, too."""
    return run / "work" / "proposals"


def check_new(folder: Path, *, resumes: bool = False) -> None:
    """Raise TrainingError where a folder holds anything already, which may be a run to resume."""
    if folder.exists() and (not folder.is_dir() or _holds_anything(folder)):
        way = "give --resume to go on with its run, or another --out" if resumes else "give another"
        raise TrainingError(f"{folder}: not an empty folder; {way}")


def check_begun(folder: Path) -> None:
    """Raise TrainingError where there is no run to go on with."""
    if not folder.is_dir() or not _holds_anything(folder):
        raise TrainingError(f"{folder}: no run there to go on with; begin one without --resume")


def _holds_anything(folder: Path) -> bool:
    """But for the lock, which a run leaves that was refused."""
    return any(path.name != LOCK for path in folder.iterdir())


def check_identity(path: Path, identity: dict[str, Any], what: str) -> None:
    """Raise TrainingError where a file, of an earlier start, is of another run than now.

    Parameters
    ----------
    path : Path
        A json with at least the keys of `identity`.
    identity : dict
        What the run is made of now.
    what : str
        The subject of the message, as "the run was".
    """
    before = read_json(path)
    if not isinstance(before, dict):
        raise _tell_damaged(path, f"{type(before).__name__}, not an object")
    for name, value in json.loads(json.dumps(identity)).items():
        if before.get(name) != value:
            difference = _tell_difference(name, before, value)
            raise TrainingError(f"{path}: {what} begun with {difference}")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read what a stage left, or its state when it was stopped.

    Raises
    ------
    TrainingError
        Where the file is damaged.
    """
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _tell_damaged(path, f"not a whole safetensors file: {error}") from error


def read_json(path: Path) -> Any:
    """Read a json of a stage; TrainingError where it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _tell_damaged(path, f"no json: {error}") from error


def read_array(path: Path) -> NDArray[Any]:
    """Read an array of a stage; TrainingError where it is damaged."""
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _tell_damaged(path, f"no array: {error}") from error
    return array


def _tell_damaged(path: Path, what: str) -> TrainingError:
    return TrainingError(
        f"{path}: {what}; expected it as the run wrote it, delete it to do its stage again"
    )


def fingerprint_dataset(dataset: LabelledSet) -> str:
    """Hash the names, sizes and labels of a data set."""
    digest = hashlib.sha256()
    for photograph in dataset:
        labels = photograph.labels
        digest.update(f"{photograph.name} {photograph.width} {photograph.height}\n".encode())
        for array in (labels.boxes, labels.classes, labels.difficult):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def fingerprint_boxes(boxes: BoxesFile | None) -> str | None:
    """Hash a boxes file's names and boxes; None where windows come from a method."""
    if boxes is None:
        return None
    digest = hashlib.sha256()
    for name, own in boxes:
        digest.update(f"{name} {len(own)}\n".encode() + np.ascontiguousarray(own).tobytes())
    return digest.hexdigest()


def fingerprint_weights(backbone: Backbone) -> str:
    """Hash a trunk's weights."""
    digest = hashlib.sha256()
    for name, tensor in backbone.layers.state_dict().items():
        digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()


class StageTimer:
    """Times a stage of a run and adds it to the run's history, whole lines only."""

    def __init__(self, folder: Path, name: str) -> None:
        self.history, self.name = folder / "history.jsonl", name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            seconds = round(time.perf_counter() - self.start, 3)
            before = self.history.read_text(encoding="utf-8") if self.history.exists() else ""
            write_text(
                self.history, before + json.dumps({"stage": self.name, "seconds": seconds}) + "\n"
            )


def measure_run(folder: Path, photographs: int) -> dict[str, Any]:
    """What a run took: seconds per stage, disk with all maps, the model's hash."""
    stages = _read_history(folder / "history.jsonl")
    files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {
        "photographs": photographs,
        "seconds": round(sum(stage["seconds"] for stage in stages), 1),
        "stages": stages,
        "disk_gb": round(sum(files) / 1e9, 3),
        "model_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "record": record_run(),
    }


def _read_history(path: Path) -> list[dict[str, Any]]:
    """Read what each stage took; lines that are damaged are left out."""
    stages = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            stage = json.loads(line)
            stages.append({"stage": str(stage["stage"]), "seconds": float(stage["seconds"])})
        except (ValueError, KeyError, TypeError):
            logger.warning("%s: a line is damaged; left out", path)
    return stages


def _tell_difference(name: str, before: dict[str, Any], value: Any) -> str:
    """Say in what an earlier start differs from now."""
    old = before.get(name)
    if name == "config" and isinstance(old, dict):
        key = next(k for k in {**old, **value} if old.get(k) != value.get(k))
        return f"{key} {old.get(key)}, now it is {value.get(key)}"
    return f"other {name}: {old}, now {value}"
