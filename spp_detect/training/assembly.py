"""A training run made of what a person asked for."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from data import LabelledSet
from proposals import load_boxes
from spp_detect.backbones import Backbone, build_backbone, load_weights, read_fc_weights
from spp_detect.classification.config import NO_PYRAMID
from spp_detect.classification.network import is_classifier, read_config
from spp_detect.config import (
    LOG_ODDS,
    RunConfig,
    make_run_config,
    make_training_config,
    split_values,
)
from spp_detect.fc import FC_DEPTH
from spp_detect.training.feature_cache import Resources
from spp_detect.training.run import TrainingRun
from spp_detect.training.run_folder import TrainingError
from spp_detect.training.team import Team
from spp_detect.workers import Workers


@dataclass(frozen=True)
class RunOptions:
    """What a run is asked for; kept in its folder for whoever goes on with it.

    Attributes
    ----------
    data : list of str
        Paths of the labelled sets.
    split : str
        Of the labelled sets.
    weights : str
        As `load_weights` takes it.
    weights_name : str
        Their name for the record; that of `weights` if empty.
    preset : str
        Whose constants.
    settings : dict
        Constants that differ from the preset's, by their field's name.
    boxes : str, optional
        Path of a file of windows.
    classes : str, optional
        Names joined by commas.
    map_budget, memory : float
        As of `Resources`, in GB.
    """

    data: list[str] = field(default_factory=list)
    split: str = "trainval"
    weights: str = "imagenet"
    weights_name: str = ""
    preset: str = "default"
    settings: dict[str, Any] = field(default_factory=dict)
    boxes: str | None = None
    classes: str | None = None
    map_budget: float = 8.0
    memory: float = 8.0


def find_options(folder: Path, given: dict[str, Any]) -> RunOptions:
    """Find the options of a run to go on with: as it was begun, but for those given now.

    Where there is nothing to go on with, they are those of a new run.

    Raises
    ------
    TrainingError
        For a folder whose run cannot be read.
    """
    path = folder / "run.json"
    if not path.is_file():
        return RunOptions(**given)
    try:
        stored = RunOptions(**json.loads(path.read_text(encoding="utf-8"))["options"])
        settings = stored.settings | given.get("settings", {})
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{path}: not the description of a run: {error}") from error
    trunk = folder / "work" / "trunk.safetensors"
    if trunk.is_file():
        stored = replace(stored, weights=str(trunk))
    return replace(stored, **{**given, "settings": settings})


def make_settings(preset: str, settings: dict[str, Any]) -> RunConfig:
    """Make a run's configuration, where settings ask for others that are not told.

    SVMs take fc7 where fine-tuning is asked for beyond the preset's; a softmax's thresholds are
    those of log-odds.
    """
    settings = {"preset": preset} | settings
    if settings.get("scores") == "softmax":
        settings = LOG_ODDS | settings
    training = make_training_config(settings["preset"], **split_values(settings)[1])
    if training.finetune_iterations and not make_training_config(preset).finetune_iterations:
        settings = {"feature": "fc7"} | settings
    return make_run_config(**settings)


def adopt_classifier(weights: str) -> dict[str, Any]:
    """Settings that suit a classifier's weights: its trunk, its pyramid, its fc layers' width."""
    if weights in ("", "imagenet", "none") or not is_classifier(weights):
        return {}
    config = read_config(weights)
    settings: dict[str, Any] = {"backbone": config.backbone, "levels": config.levels}
    return settings | ({"fc_width": config.fc_width} if config.fc_depth == FC_DEPTH["fc7"] else {})


def _has_pyramid_of(weights: str, config: RunConfig) -> bool:
    """Whether a classifier's fc6 takes the detector's pyramid; what is no classifier has none."""
    if weights in ("", "imagenet", "none") or not is_classifier(weights):
        return True
    return read_config(weights).levels in (config.model.levels, NO_PYRAMID)


def make_trunk(name: str, weights: str, seed: int) -> tuple[Backbone, str]:
    """Build a trunk with its first weights, and name these."""
    torch.manual_seed(seed)
    backbone = build_backbone(name)
    return backbone, load_weights(backbone, weights)


def assemble_run(
    out: Path,
    dataset: LabelledSet,
    options: RunOptions,
    resources: Resources,
    team: Team | None = None,
    workers: Workers | None = None,
) -> TrainingRun:
    """Make a run: its configuration, its trunk with weights, its windows, who helps and who works.

    Raises
    ------
    ConfigError
        For unknown options, and for those that do not fit together.
    WeightsError
        For weights that cannot be had or do not fit the trunk.
    ProposalError
        For a file of boxes that cannot be read.
    TrainingError
        For a class of which no box can serve as a positive.
    """
    first = make_settings(options.preset, options.settings)
    backbone, found = make_trunk(first.model.backbone, options.weights, first.model.seed)
    name = options.weights_name or found
    config = make_settings(options.preset, options.settings | {"weights": name})
    fc_weights = None
    if config.has_fc and _has_pyramid_of(options.weights, config):
        fc_weights = read_fc_weights(backbone.name, options.weights)
    boxes = load_boxes(Path(options.boxes)) if options.boxes else None
    return TrainingRun(
        out,
        dataset,
        config,
        backbone,
        resources,
        boxes=boxes,
        fc_weights=fc_weights,
        options=vars(options) | {"weights_name": name},
        team=team,
        workers=workers,
    )
