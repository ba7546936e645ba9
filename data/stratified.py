"""A labelled set without splits, parted into one to train on and one to measure on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from data.labels import LabelledSet


def split_stratified(
    dataset: LabelledSet, share: float = 0.2, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Part a set's photographs so that each class has its share in either part.

    Class by class, the rarest first, photographs that show it are drawn until the second part has
    its share of them. (As iterative stratification does: Sechidis, Tsoumakas, Vlahavas, ECML 2011.)

    Parameters
    ----------
    dataset : LabelledSet
        Any.
    share : float
        Of the photographs of each class that the second part gets, rounded: of two photographs
        none, of three one.
    seed : int
        Of the draws.

    Returns
    -------
    tuple of two lists of str
        Names of photographs, in the set's order.

    Examples
    --------
    >>> import tempfile
    >>> from data import make_synthetic_set, open_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     root = make_synthetic_set(f"{folder}/voc", train=10, val=1, test=1)
    ...     train, test = split_stratified(open_dataset(root, "train"))
    >>> len(train), len(test)
    (8, 2)
    """
    random = np.random.default_rng(seed)
    shown = np.zeros((len(dataset), len(dataset.classes) + 1), bool)
    for i, photograph in enumerate(dataset):
        shown[i, photograph.labels.easy.classes] = True
    shown[:, -1] = ~shown.any(axis=1)  # those without objects are a class of their own
    counts = shown.sum(axis=0)
    second, settled = np.zeros(len(dataset), bool), np.zeros(len(dataset), bool)
    for c in np.argsort(counts, kind="stable"):
        wanted = round(share * counts[c]) - int((second & shown[:, c]).sum())
        free = random.permutation(np.flatnonzero(shown[:, c] & ~settled))
        second[free[: max(0, wanted)]] = True
        settled |= shown[:, c]
    names = np.array([photograph.name for photograph in dataset])
    return names[~second].tolist(), names[second].tolist()


def select_photographs(dataset: LabelledSet, names: Collection[str], split: str) -> LabelledSet:
    """Keep the photographs of some names, as a split of another name."""
    wanted = set(names)
    kept = tuple(photograph for photograph in dataset if photograph.name in wanted)
    return replace(dataset, photographs=kept, split=split)
