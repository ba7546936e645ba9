"""A small labelled set and a small detector trained on it, made once."""

from pathlib import Path

import pytest
import torch

from data import LabelledSet, make_synthetic_set, open_dataset
from spp_detect.backbones import build_backbone
from spp_detect.config import Config, make_config
from spp_detect.detector import Detector
from spp_detect.training.run import Resources, TrainingRun

CPU = Resources(torch.device("cpu"))


def _small_config(**changes) -> Config:
    settings = {"backbone": "small5", "scales": (160,), "norm_photographs": 8, "norm_windows": 50}
    return make_config(**(settings | changes))


def _make_run(
    folder: Path, dataset: LabelledSet, config: Config, device: torch.device = CPU.device
) -> TrainingRun:
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone)
    return TrainingRun(folder, dataset, config, backbone, Resources(device))


@pytest.fixture(scope="session")
def small_config():
    """Makes a configuration: an untrained trunk at a small scale, quick, and nothing left out."""
    return _small_config


@pytest.fixture(scope="session")
def make_run():
    """Makes a training run."""
    return _make_run


@pytest.fixture(scope="session")
def small_voc(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "voc"
    return make_synthetic_set(out, train=14, val=6, test=6, seed=3)


@pytest.fixture(scope="session")
def small_set(small_voc) -> LabelledSet:
    return open_dataset(small_voc, "trainval")


@pytest.fixture(scope="session")
def small_model(tmp_path_factory, small_set) -> Path:
    """A finished model folder; tests must not change it."""
    folder = tmp_path_factory.mktemp("models") / "run"
    _make_run(folder, small_set, _small_config()).train()
    return folder


@pytest.fixture(scope="session")
def small_detector(small_model) -> Detector:
    return Detector.load(small_model, "cpu")
