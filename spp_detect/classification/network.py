"""A classifier: a trunk, the pyramid over its whole map, fc layers and the classes' scores."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from spp_detect.backbones import Backbone, build_backbone
from spp_detect.classification.config import ClassifierConfig, config_from_json
from spp_detect.fc import FcLayers
from spp_detect.files import write_json, write_tensors
from spp_detect.pyramid import SpatialPyramidPool

FORMAT, VERSION = "spp-detect classifier", 1
TENSORS, DESCRIPTION = "model.safetensors", "config.json"


class ClassifierError(ValueError):
    """A classifier that cannot be read or used so; one line says why."""


class Classifier(nn.Module):
    """A network that names what an image shows; with a pyramid it takes images of any size.

    Parameters
    ----------
    config : ClassifierConfig
        Its layers.
    classes : tuple of str
        The names of what it tells apart.

    Examples
    --------
    >>> network = Classifier(ClassifierConfig("small5", fc_depth=0), ("cat", "dog")).eval()
    >>> network(torch.rand(1, 3, 96, 96)).shape, network(torch.rand(3, 3, 60, 131)).shape
    (torch.Size([1, 2]), torch.Size([3, 2]))
    """

    def __init__(self, config: ClassifierConfig, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.config = config
        self.classes = classes
        self.trunk: Backbone = build_backbone(config.backbone)
        self.pyramid = SpatialPyramidPool(config.levels)
        inputs = self.trunk.channels * self.pyramid.bins
        self.fc = FcLayers(inputs, config.fc_width, config.fc_depth)
        self.fc8 = nn.Linear(self.fc.length, len(classes))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Score images: normalised pixels, float (N, 3, H, W), to float (N, C), before a softmax.

        Raises
        ------
        ClassifierError
            For another size than the trained one, of a network without a pyramid.
        """
        size = tuple(pixels.shape[2:])
        if not self.config.has_pyramid and size != (self.config.size,) * 2:
            raise ClassifierError(
                f"images of {size[1]} x {size[0]} pixels: expected {self.config.size} x "
                f"{self.config.size}, the network has no pyramid"
            )
        return self.score_pooled(self.pyramid(self.trunk(pixels)))

    def score_pooled(self, pooled: torch.Tensor) -> torch.Tensor:
        """Score what the pyramid made of maps or of views on them: (N, D) to (N, C)."""
        scores: torch.Tensor = self.fc8(self.fc(pooled))
        return scores


def save_classifier(network: Classifier, folder: Path) -> None:
    """Save the tensors first, the description last, so that it marks a whole model."""
    write_tensors(folder / TENSORS, network.state_dict())
    text = {
        "format": FORMAT,
        "version": VERSION,
        "classes": list(network.classes),
        "config": asdict(network.config),
    }
    write_json(folder / DESCRIPTION, text)


def load_classifier(folder: Path | str) -> Classifier:
    """Load a classifier, in evaluation mode.

    Raises
    ------
    ClassifierError
        For a folder that holds no whole classifier, or one whose tensors do not fit.
    """
    folder = Path(folder)
    network = Classifier(*_read_description(folder / DESCRIPTION))
    try:
        network.load_state_dict(load_file(folder / TENSORS))
    except (SafetensorError, OSError) as error:
        raise ClassifierError(
            f"{folder / TENSORS}: not a whole safetensors file: {error}"
        ) from error
    except RuntimeError as error:  # of load_state_dict, over many lines
        first = str(error).split("\n")[1].strip()
        raise ClassifierError(
            f"{folder / TENSORS}: not the weights that {DESCRIPTION} describes: {first}"
        ) from error
    return network.eval()


def is_classifier(folder: Path | str) -> bool:
    """Whether a folder's description is that of a classifier."""
    try:
        _read_description(Path(folder) / DESCRIPTION)
    except ClassifierError:
        return False
    return True


def read_config(folder: Path | str) -> ClassifierConfig:
    """Read a classifier's constants; ClassifierError where a folder holds none."""
    return _read_description(Path(folder) / DESCRIPTION)[0]


def _read_description(path: Path) -> tuple[ClassifierConfig, tuple[str, ...]]:
    if not path.is_file():
        unfinished = (path.parent / "run.json").is_file()
        hint = "; its training is not finished: pretrain --resume" if unfinished else ""
        raise ClassifierError(f"{path}: no such file, expected a classifier's{hint}")
    try:
        text: Any = json.loads(path.read_text(encoding="utf-8"))
        if (text.get("format"), text.get("version")) != (FORMAT, VERSION):
            raise ClassifierError(
                f"{path}: expected a file of format {FORMAT!r}, version {VERSION}"
            )
        return config_from_json(text["config"]), tuple(map(str, text["classes"]))
    except ClassifierError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise ClassifierError(f"{path}: not a classifier's description: {error}") from error
