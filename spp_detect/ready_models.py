"""The models that come with the package, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "models"


@dataclass(frozen=True)
class ReadyModel:
    """What is known of a model that comes with the package.

    Attributes
    ----------
    name : str
        To load it by.
    classes : int
        How many it finds.
    backbone : str
        Its trunk, whose weights are torchvision's.
    size : int
        Of its files in bytes, without the trunk's weights.
    measured : dict
        What `evaluate` wrote of it: mAP, split, photographs, seconds, record. Empty before that.
    """

    name: str
    classes: int
    backbone: str
    size: int
    measured: dict[str, Any]


def list_names() -> list[str]:
    """Names of the ready models."""
    return sorted(path.parent.name for path in FOLDER.glob("*/config.json"))


def find_model(model: str | Path) -> Path:
    """Find a model's folder: the one given, or where there is none, that of a ready model."""
    folder = Path(model)
    if not folder.exists() and str(model) in list_names():
        return FOLDER / str(model)
    return folder


def is_ready(folder: Path) -> bool:
    """Whether a folder is a ready model's, where nothing is to be written."""
    return folder.parent == FOLDER


def describe_models() -> list[ReadyModel]:
    """Describe all ready models."""
    return [_describe(FOLDER / name) for name in list_names()]


def _describe(folder: Path) -> ReadyModel:
    text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metrics = folder / "metrics.json"
    measured = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {}
    size = sum(path.stat().st_size for path in folder.iterdir())
    return ReadyModel(folder.name, len(text["classes"]), text["config"]["backbone"], size, measured)
