"""The whole program on the synthetic set: it learns, and from shuffled labels it learns nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from data import LabelledSet, Labels, make_synthetic_set, open_dataset
from spp_detect.demo import train_on_set
from spp_detect.evaluation import detect_dataset, measure


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    return make_synthetic_set(tmp_path_factory.mktemp("whole") / "voc", seed=1)


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


def train_and_measure(dataset: LabelledSet, test: LabelledSet, folder) -> float:
    detector, _ = train_on_set(dataset, folder, torch.device("cpu"), seed=0)
    return measure(detect_dataset(detector, test), test)[1]["mAP"]


def test_true_labels_are_learnt(voc, tmp_path):
    test = open_dataset(voc, "test")
    assert train_and_measure(open_dataset(voc, "trainval"), test, tmp_path / "run") >= 0.80


def test_shuffled_labels_fall_to_chance(voc, tmp_path):
    test = open_dataset(voc, "test")
    dataset = shuffle_classes(open_dataset(voc, "trainval"))
    # Five classes: a box found with a class by chance is right one time in five.
    assert train_and_measure(dataset, test, tmp_path / "run") <= 0.25
