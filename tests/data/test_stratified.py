"""A set parted by class: shares counted, rare classes, always the same."""

from pathlib import Path

import numpy as np
import pytest

from data import LabelledSet, Labels, Photograph, select_photographs, split_stratified


def make_set(shown):
    """A set of photographs that show some classes each."""
    classes = tuple(sorted({name for own in shown for name in own}))
    photographs = []
    for i, own in enumerate(shown):
        numbers = np.array([classes.index(name) for name in own], np.int64)
        boxes = np.tile(np.float32([0, 0, 9, 9]), (len(own), 1))
        labels = Labels(boxes, numbers, np.zeros(len(own), bool))
        photographs.append(Photograph(f"{i:03d}", Path(f"{i:03d}.jpg"), 10, 10, labels))
    return LabelledSet(Path("set"), "all", classes, tuple(photographs))


def test_every_class_has_its_share():
    shown = [("cat",)] * 100 + [("dog",)] * 50 + [("owl",)] * 5 + [()] * 20
    dataset = make_set(shown)
    train, test = split_stratified(dataset, 0.2)
    assert sorted(train + test) == [photograph.name for photograph in dataset]
    counts = [
        sum(first <= int(name) < last for name in test)
        for first, last in ((0, 100), (100, 150), (150, 155), (155, 175))
    ]
    assert counts == [20, 10, 1, 4]


@pytest.mark.parametrize("seed", range(5))
def test_photographs_of_several_classes_count_for_each(seed):
    random = np.random.default_rng(seed)
    names = ("cat", "dog", "owl", "yak")
    shown = [tuple(n for n in names if random.random() < 0.4) for _ in range(300)]
    dataset = make_set(shown)
    _, test = split_stratified(dataset, 0.2, seed)
    for name in names:
        every = [i for i, own in enumerate(shown) if name in own]
        share = sum(f"{i:03d}" in test for i in every) / len(every)
        assert 0.15 < share < 0.25


def test_what_is_too_rare_is_learnt():
    train, test = split_stratified(make_set([("cat",)] * 2 + [("dog",)] * 10), 0.2)
    assert {"000", "001"} <= set(train) and len(test) == 2


def test_the_seed_chooses():
    dataset = make_set([("cat",)] * 40)
    assert split_stratified(dataset, seed=3) == split_stratified(dataset, seed=3)
    assert split_stratified(dataset, seed=3) != split_stratified(dataset, seed=4)


def test_photographs_are_selected_by_name():
    dataset = make_set([("cat",), ("dog",), ("cat",)])
    some = select_photographs(dataset, ["002", "000"], "test")
    assert [photograph.name for photograph in some] == ["000", "002"]
    assert some.split == "test" and some.classes == dataset.classes
