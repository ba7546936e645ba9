"""A model in a folder: model.safetensors and config.json, checked as they are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from spp_detect.config import (
    Config,
    ConfigError,
    TrainingConfig,
    config_from_mapping,
    make_training_config,
    split_values,
    to_mapping,
)
from spp_detect.files import write_json, write_tensors

MODEL_FORMAT = "spp-detect model"
# What was done when there was no such constant, of a model and of its training.
BEFORE = {"passes": 1, "vote_iou": None, "support": 0.0}
# What stood for a tensor when there was none of its name.
TENSORS_BEFORE = {"calibration.window_odds": "calibration.odds"}
TRAINING_BEFORE = {"finetune_sampling": "photographs"}
MODEL_VERSION = 2  # 1 held the training's constants among the model's


class ModelError(ValueError):
    """A model folder that cannot be used; one line names the file and what was expected.

    Examples
    --------
    >>> from spp_detect import Detector
    >>> try:
    ...     Detector.load("runs/absent")
    ... except ModelError as error:
    ...     print(error)
    runs/absent: no such model folder
    """


@dataclass(frozen=True)
class Description:
    """What config.json tells of a model.

    Attributes
    ----------
    config : Config
        What it needs.
    training : TrainingConfig
        How it was trained, for the record.
    classes : tuple of str
        Names of the C classes.
    public_trunk : str
        Where a trunk's weights come from that are not in the folder, as "imagenet"; "" where they
        are.
    calibrated : bool
        Whether the folder holds what scores mean.
    """

    config: Config
    training: TrainingConfig
    classes: tuple[str, ...]
    public_trunk: str = ""
    calibrated: bool = False


def save_model(folder: Path, modules: nn.Module, description: Description) -> None:
    """Save the tensors first, config.json last, so that it marks a whole model."""
    write_tensors(folder / "model.safetensors", modules.state_dict())
    text = {
        "format": MODEL_FORMAT,
        "version": MODEL_VERSION,
        "classes": list(description.classes),
        "config": to_mapping(description.config),
        "training": to_mapping(description.training),
    }
    if description.public_trunk:
        text["public_trunk"] = description.public_trunk
    if description.calibrated:
        text["calibrated"] = True
    write_json(folder / "config.json", text)


def read_description(folder: Path) -> Description:
    """Read config.json.

    Raises
    ------
    ModelError
        For a folder that is missing or holds no whole model, of another format or version.
    """
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    if not path.is_file():
        unfinished = (folder / "run.json").is_file()
        hint = "; its training is not finished: train --resume" if unfinished else ""
        raise ModelError(f"{folder}: not a whole model folder, config.json is missing{hint}")
    try:
        text: Any = json.loads(path.read_text(encoding="utf-8"))
        if text.get("format") != MODEL_FORMAT:
            raise ModelError(f"{path}: expected a file of format {MODEL_FORMAT!r}")
        if text.get("version") not in (1, MODEL_VERSION):
            raise ModelError(
                f"{path}: model version {text.get('version')}, expected {MODEL_VERSION}"
            )
        model, training = split_values(text["config"] | text.get("training", {}))
        # A key that the file lacks is younger than it: its default, with these exceptions, is what
        # was done before.
        config = config_from_mapping(to_mapping(Config()) | BEFORE | model)
        trained = make_training_config(**to_mapping(TrainingConfig()) | TRAINING_BEFORE | training)
        classes = _check_classes(text["classes"])
        public_trunk = str(text.get("public_trunk", ""))
        calibrated = bool(text.get("calibrated", False))
    except ModelError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError, ConfigError) as error:
        raise ModelError(f"{path}: not a model's description: {error}") from error
    return Description(config, trained, classes, public_trunk, calibrated)


def _check_classes(names: Any) -> tuple[str, ...]:
    """Check that class names are a list of different words; ValueError else."""
    classes = tuple(names) if isinstance(names, list) else ()
    sound = all(isinstance(name, str) and name.strip() for name in classes)
    if not classes or not sound or len(set(classes)) < len(classes):
        raise ValueError(f"classes {names!r}: expected different names, none blank")
    return classes


def load_tensors(folder: Path, modules: nn.Module) -> None:
    """Load model.safetensors into modules, all that they need.

    Raises
    ------
    ModelError
        For a file that is missing or damaged, or whose tensors do not fit.
    """
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ModelError(f"{path}: missing, the model folder is not whole")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file: {error}") from error
    for name, older in TENSORS_BEFORE.items():
        if name not in tensors and older in tensors:
            tensors[name] = tensors[older]
    _check_shapes(path, tensors, modules.state_dict())
    modules.load_state_dict({name: tensors[name] for name in modules.state_dict()})


def _check_shapes(
    path: Path, tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]
) -> None:
    for name, wanted in expected.items():
        if name not in tensors:
            raise ModelError(f"{path}: tensor {name} is missing")
        if tensors[name].shape != wanted.shape:
            raise ModelError(
                f"{path}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                f"expected {tuple(wanted.shape)}"
            )
