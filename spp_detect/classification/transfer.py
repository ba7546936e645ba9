"""Features of whole photographs put to two tasks (paper, sections 3.2 and 3.3).

Both train linear SVMs, one against the rest, and augment nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import DataError, ImageSet, LabelledSet
from data.photo import DEFAULT_MAX_SIDE
from spp_detect.classification.description import Description, Rows, describe_files
from spp_detect.classification.image_labels import (
    ABSENT,
    SHOWN,
    label_photographs,
    measure_ap,
)
from spp_detect.classification.kernel_svms import pick_best, train_svms
from spp_detect.progress import track

COSTS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # that are tried, of features of length 1
TRAIN_IMAGES, MOST_TEST_IMAGES, SPLITS = 30, 50, 10
HELD_OUT = 3  # a part in so many of a class's training photographs, to choose C on

# Makes the description of the photographs that may be learnt from.
MakeDescription = Callable[[Sequence[Path]], Description]


def transfer_to_labels(
    parts: dict[str, LabelledSet], make: MakeDescription, max_side: int = DEFAULT_MAX_SIDE
) -> dict[str, Any]:
    """Train on a labelled set's classes and measure AP over its photographs, as VOC 2007 does.

    C is that of the best mAP on val of SVMs trained on train, the same for all classes. Those that
    are measured on test are trained on both. A photograph whose objects of a class are all
    difficult counts for nothing in that class, neither in training nor in test.

    Parameters
    ----------
    parts : dict of str to LabelledSet
        "train", "val" and "test", of the same classes.
    make : callable
        Makes the description, given the files of train and val.
    max_side : int
        Widest and highest photograph accepted, in pixels.

    Returns
    -------
    dict
        ``mAP`` and ``ap`` by class, fractions, NaN for a class that test does not show; ``c``,
        ``val_mAP`` by C, ``photographs`` by part.

    Raises
    ------
    DataError
        Every photograph of train shows a class, or none; a photograph cannot be read.
    """
    labels = {name: label_photographs(part) for name, part in parts.items()}
    _check_both(parts["train"], labels["train"])
    files = {name: [one.path for one in part] for name, part in parts.items()}
    learnt = files["train"] + files["val"]
    describe, compare = make(learnt)
    known = describe_files(learnt, describe, max_side)
    among = compare(known, known)
    both = np.concatenate([labels["train"], labels["val"]])
    first = np.arange(len(both)) < len(files["train"])
    tried = []
    for c in track(COSTS, "C"):
        scores = _train_and_score(among[first][:, first], both[first], among[~first][:, first], c)
        tried.append(_mean(measure_ap(scores, both[~first])))
    c = pick_best(tried, COSTS)
    tested = compare(describe_files(files["test"], describe, max_side), known)
    ap = measure_ap(_train_and_score(among, both, tested, c), labels["test"])
    return {
        "mAP": _mean(ap),
        "ap": dict(zip(parts["test"].classes, ap.tolist(), strict=True)),
        "c": c,
        "val_mAP": dict(zip(map(str, COSTS), tried, strict=True)),
        "values": known.shape[1],
        "photographs": {name: len(part) for name, part in parts.items()},
    }


def transfer_to_folders(
    images: ImageSet,
    make: MakeDescription,
    seed: int,
    train_images: int = TRAIN_IMAGES,
    splits: int = SPLITS,
    max_side: int = DEFAULT_MAX_SIDE,
) -> dict[str, Any]:
    """Train on some photographs of each class and measure the accuracy on others, several times.

    C is chosen in each split anew, on a third of its training photographs by SVMs trained on the
    other two.

    Parameters
    ----------
    images : ImageSet
        Photographs of one class each.
    make : callable
        Makes the description, given all files; none of their classes are told.
    seed : int
        Of the splits.
    train_images : int
        Of each class, at least 2; of the others, 50 at most are tested.
    splits : int
        How often it is done.
    max_side : int
        Widest and highest photograph accepted, in pixels.

    Returns
    -------
    dict
        ``accuracy``, the mean over the splits of the mean accuracy of the classes, a fraction;
        ``deviation``, the standard deviation of these means (NaN of one split); each split's own
        with its ``c``; ``accuracy_by_class``, the mean over the splits.

    Raises
    ------
    DataError
        A class has too few photographs; one cannot be read.
    """
    _check_enough(images, train_images)
    describe, compare = make(images.paths)
    rows = describe_files(images.paths, describe, max_side)
    kernel = compare(rows, rows)
    found, costs = [], []
    for split in track(range(splits), "splits"):
        random = np.random.default_rng((seed, split))
        train, test = draw_split(images.labels, train_images, random)
        held = max(1, train_images // HELD_OUT)
        inner = train[:, held:].ravel(), train[:, :held].ravel()
        tried = [_measure_split(kernel, images, inner, c).mean() for c in track(COSTS, "C")]
        costs.append(pick_best(tried, COSTS))
        found.append(_measure_split(kernel, images, (train.ravel(), test), costs[-1]))
    means = np.mean(found, axis=1)
    by_class = np.mean(found, axis=0).tolist()
    return {
        "accuracy": float(means.mean()),
        "deviation": float(means.std(ddof=1)) if splits > 1 else float("nan"),
        "splits": [{"accuracy": float(mean), "c": c} for mean, c in zip(means, costs, strict=True)],
        "accuracy_by_class": dict(zip(images.classes, by_class, strict=True)),
        "values": rows.shape[1],
        "photographs": {"all": len(images), "train_of_class": train_images},
    }


def draw_split(
    labels: NDArray[np.int64], train_images: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw photographs to train on, and of the others at most 50 of each class to test.

    Parameters
    ----------
    labels : int64 (N,)
        Classes 0 to K − 1, each with more than ``train_images`` photographs.
    train_images : int
        Of each class.
    random : numpy.random.Generator
        Draws.

    Returns
    -------
    train : int64 (K, train_images)
        Photographs' numbers, a row a class.
    test : int64 (M,)
        Others.
    """
    drawn = [random.permutation(np.flatnonzero(labels == k)) for k in range(labels.max() + 1)]
    train = np.stack([one[:train_images] for one in drawn])
    test = [one[train_images : train_images + MOST_TEST_IMAGES] for one in drawn]
    return train, np.concatenate(test)


def _measure_split(
    kernel: Rows,
    images: ImageSet,
    parts: tuple[NDArray[np.int64], NDArray[np.int64]],
    c: float,
) -> NDArray[np.float64]:
    """Train on the first part's photographs: the accuracy (K,) of each class in the second."""
    train, test = parts
    classes = np.arange(len(images.classes))
    signs = np.where(images.labels[train][:, None] == classes, SHOWN, ABSENT)
    scores = _train_and_score(kernel[np.ix_(train, train)], signs, kernel[np.ix_(test, train)], c)
    truth = images.labels[test]
    right = scores.argmax(axis=1) == truth
    return np.bincount(truth, right) / np.bincount(truth)


def _train_and_score(among: Rows, labels: NDArray[np.int64], tested: Rows, c: float) -> Rows:
    return train_svms(among, labels, c).score(tested)


def _mean(ap: NDArray[np.float64]) -> float:
    return float("nan") if np.isnan(ap).all() else float(np.nanmean(ap))


def _check_both(dataset: LabelledSet, labels: NDArray[np.int64]) -> None:
    for name, own in zip(dataset.classes, labels.T, strict=True):
        for kind, few in ((SHOWN, "shows"), (ABSENT, "is without")):
            if kind not in own:
                raise DataError(
                    f"{dataset.root}: no photograph of {dataset.split} {few} {name!r} for certain; "
                    "expected some that show it and some that do not, to train on"
                )


def _check_enough(images: ImageSet, train_images: int) -> None:
    counts = np.bincount(images.labels, minlength=len(images.classes))
    for name, count in zip(images.classes, counts, strict=True):
        if count <= train_images:
            raise DataError(
                f"class {name!r}: {count} photographs; expected more than {train_images}, "
                "so many to train on and others to test"
            )
