"""A small labelled set and a small detector trained on it, made once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data import LabelledSet, make_synthetic_set, open_dataset
from spp_detect.backbones import build_backbone
from spp_detect.config import RunConfig, make_run_config
from spp_detect.detector import Detector
from spp_detect.parts import PARTS, WindowPart
from spp_detect.training import components
from spp_detect.training.feature_cache import Resources
from spp_detect.training.run import TrainingRun

CPU = Resources(torch.device("cpu"))


class Surroundings(WindowPart):
    """What is 1.7 times as large around a window, as far as the photograph goes."""

    def place(self, windows, size):
        middle = (windows[:, :2] + windows[:, 2:]).astype(float) / 2
        reach = 0.85 * (windows[:, 2:] - windows[:, :2])
        regions = np.concatenate([middle - reach, middle + reach], axis=1)
        return regions.clip(0, [*size, *size]).astype(np.float32)


class Early(WindowPart):
    """The window on an earlier layer's map, in a small pyramid of its own."""

    def __init__(self, layer):
        self.layer = layer

    def find_levels(self, levels):
        return (2, 1)

    def place(self, windows, size):
        return windows


def _small_config(**changes) -> RunConfig:
    settings = {"backbone": "small5", "scales": (160,), "norm_photographs": 8, "norm_windows": 50}
    return make_run_config(**(settings | changes))


@pytest.fixture(autouse=True)
def few_components(monkeypatch):
    """Looking for components among 12,000 windows would take half of a small run's time."""
    monkeypatch.setattr(components, "COMPONENT_WINDOWS", 1000)


@pytest.fixture(scope="session")
def small_config():
    """Makes a run's configuration: an untrained trunk, a small scale, quick, nothing left out."""
    return _small_config


@pytest.fixture
def more_parts(monkeypatch):
    """Lists "surroundings" and, of a layer that it is given, "early" beside the parts there are."""

    def add(layer):
        monkeypatch.setitem(PARTS, "surroundings", Surroundings())
        monkeypatch.setitem(PARTS, "early", Early(layer))

    return add


@pytest.fixture(scope="session")
def make_run():
    """Makes a training run."""

    def make(
        folder: Path, dataset: LabelledSet, config: RunConfig, device: torch.device = CPU.device
    ) -> TrainingRun:
        torch.manual_seed(0)
        backbone = build_backbone(config.model.backbone)
        return TrainingRun(folder, dataset, config, backbone, Resources(device))

    return make


@pytest.fixture(scope="session")
def small_voc(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "voc"
    return make_synthetic_set(out, train=14, val=6, test=6, seed=3)


@pytest.fixture(scope="session")
def small_set(small_voc) -> LabelledSet:
    return open_dataset(small_voc, "trainval")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory, small_set, make_run) -> Path:
    """A finished model folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("models") / "run"
    make_run(folder, small_set, _small_config()).train()
    return folder


@pytest.fixture(scope="session")
def small_detector(small_model) -> Detector:
    return Detector.load(small_model, "cpu")
