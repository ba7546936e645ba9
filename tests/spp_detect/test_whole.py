"""The whole program on the synthetic set: it learns, and from shuffled labels it learns nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from data import LabelledSet, Labels, make_synthetic_set, open_dataset
from spp_detect.evaluation import detect_dataset, measure
from spp_detect.experiments.demo import PHOTOGRAPHS, train_detector, train_trunk
from spp_detect.threads import get_threads, set_threads

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """How sums are rounded, and so what is learnt, depends on their number."""
    before = get_threads()
    set_threads(1)
    yield
    set_threads(before)


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_synthetic_set(tmp_path_factory.mktemp("whole") / "voc", **PHOTOGRAPHS, seed=1)


def shuffle_classes(dataset: LabelledSet) -> LabelledSet:
    """The same boxes, their classes dealt out anew."""
    classes = np.concatenate([photograph.labels.classes for photograph in dataset])
    dealt = iter(np.random.default_rng(0).permutation(classes))
    photographs = []
    for photograph in dataset:
        labels = photograph.labels
        new = np.array([next(dealt) for _ in labels.classes], np.int64)
        photographs.append(
            dataclasses.replace(photograph, labels=Labels(labels.boxes, new, labels.difficult))
        )
    return dataclasses.replace(dataset, photographs=tuple(photographs))


@pytest.fixture(scope="module")
def trunk(voc, tmp_path_factory):
    run = tmp_path_factory.mktemp("trunk")
    return train_trunk(open_dataset(voc, "train"), run, CPU, seed=1)[0]


def train_and_measure(dataset: LabelledSet, test: LabelledSet, trunk, folder) -> float:
    detector = train_detector(dataset, folder, trunk, CPU, seed=1)
    return measure(detect_dataset(detector, test), test)[1]["mAP"]


def test_true_labels_are_learnt(voc, trunk, tmp_path):
    dataset, test = open_dataset(voc, "val"), open_dataset(voc, "test")
    assert train_and_measure(dataset, test, trunk, tmp_path / "run") >= 0.80


def test_shuffled_labels_fall_to_chance(voc, trunk, tmp_path):
    dataset, test = shuffle_classes(open_dataset(voc, "val")), open_dataset(voc, "test")
    # Five classes: a box found with a class by chance is right one time in five.
    assert train_and_measure(dataset, test, trunk, tmp_path / "run") <= 0.25
