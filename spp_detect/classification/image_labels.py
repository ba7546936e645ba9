"""What a photograph shows, class by class, and the AP of scores of whole photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data import LabelledSet
from eval import average_precision

SHOWN, HARDLY, ABSENT = 1, 0, -1


def label_photographs(dataset: LabelledSet) -> NDArray[np.int64]:
    """Label photographs as VOC's classification task does, from their boxes.

    Parameters
    ----------
    dataset : LabelledSet
        N photographs, K classes.

    Returns
    -------
    int64 (N, K)
        1 where an object of the class is shown, 0 where all that are shown are difficult, −1 where
        none is.

    Examples
    --------
    >>> from pathlib import Path
    >>> from data import Labels, Photograph
    >>> difficult = np.array([False, True, True])
    >>> labels = Labels(np.zeros((3, 4), np.float32), np.array([0, 0, 1]), difficult)
    >>> street = Photograph("street", Path("street.jpg"), 9, 9, labels)
    >>> label_photographs(LabelledSet(Path("set"), "test", ("car", "dog", "cat"), (street,)))
    array([[ 1,  0, -1]])
    """
    labels = np.full((len(dataset), len(dataset.classes)), ABSENT, np.int64)
    for row, photograph in zip(labels, dataset, strict=True):
        row[photograph.labels.classes] = HARDLY
        row[photograph.labels.easy.classes] = SHOWN
    return labels


def measure_ap(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Measure each class's AP over photographs, as VOC 2007's ``VOCevalcls`` does.

    The photographs are taken in descending score, equal scores in the order given; those labelled 0
    count for nothing. The AP is that of 11 points.

    Parameters
    ----------
    scores : float (N, K)
        Of each photograph for each class.
    labels : int64 (N, K)
        As `label_photographs` gives them.

    Returns
    -------
    float64 (K,)
        Fractions, 0 to 1; NaN for a class that no photograph shows.

    Examples
    --------
    The best photograph shows the class, the second hardly, the third not, the fourth again:
    the precision is 1 up to a recall of 1/2, then 2/3.

    >>> ap = measure_ap(np.array([[0.9], [0.8], [0.7], [0.6]]), np.array([[1], [0], [-1], [1]]))
    >>> ap.round(4), round((6 * 1 + 5 * 2 / 3) / 11, 4)
    (array([0.8485]), 0.8485)
    """
    return np.array([_measure_class(*pair) for pair in zip(scores.T, labels.T, strict=True)])


def _measure_class(scores: NDArray[np.floating], labels: NDArray[np.int64]) -> float:
    descending = labels[np.argsort(-scores, kind="stable")]
    shown = descending[descending != HARDLY] == SHOWN
    if not shown.any():
        return float("nan")
    hits = np.cumsum(shown)
    precision = hits / np.arange(1, len(hits) + 1)
    return average_precision(precision, hits / hits[-1], "11-point")
