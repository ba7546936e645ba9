"""A class more without training the others again: linear classifiers share only features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data import DEFAULT_MAX_SIDE, DataError, LabelledSet, Labels, Photograph, read_photo
from spp_detect.config import RunConfig
from spp_detect.detector import Detector
from spp_detect.heads import Heads
from spp_detect.model_folder import ModelError
from spp_detect.training.feature_cache import Resources
from spp_detect.training.run import TrainingRun, check_positives

logger = logging.getLogger(__name__)


def add_class(
    detector: Detector, dataset: LabelledSet, work: Path, resources: Resources
) -> Detector:
    """Train the SVM and the regressor of a class more on a detector's features.

    Parameters
    ----------
    detector : Detector
        Stays as it is.
    dataset : LabelledSet
        Photographs whose one class is the new one; what else they show is negative.
    work : Path
        A folder for the stages' files, to go on with.
    resources : Resources
        Device, disk, largest photograph.

    Returns
    -------
    Detector
        Of the same trunk, fc layers and classes, bit for bit, and of one class more at the end.

    Raises
    ------
    ModelError
        As of `check_addable`.
    TrainingError
        For a set without a box to learn from.
    """
    (name,) = dataset.classes
    check_addable(detector, name)
    check_positives(dataset)
    # Of how the detector was trained only what its SVMs and regressors were holds here.
    training = replace(detector.training, finetune_iterations=0, train_from="")
    config = RunConfig(replace(detector.config, promising=0, fc_rank=0), training)
    run = TrainingRun(work, dataset, config, detector.extractor.backbone, resources)
    run.fc_layers = detector.fc
    run.based_on = detector.identify()["weights"]
    heads = run.train_heads()
    return detector.with_heads(
        (*detector.classes, name),
        _join(detector.heads, heads),
        detector.calibration,  # one for all classes
    )


def check_addable(detector: Detector, name: str) -> None:
    """Raise ModelError for a class that the detector has, a softmax, and a cascade."""
    if name in detector.classes:
        raise ModelError(f"class {name!r}: the model has it; expected another")
    if detector.heads.is_softmax:
        raise ModelError("a softmax's classes learn together; expected a model with SVMs")
    if detector.first is not None:
        raise ModelError("a cascade: expected the model that it was made of")


def remove_class(detector: Detector, name: str) -> Detector:
    """Make a detector of the other classes, which stay bit for bit.

    Raises
    ------
    ModelError
        For a class that it has not got, the only one, and for a softmax.
    """
    if name not in detector.classes or len(detector.classes) == 1:
        have = ", ".join(detector.classes)
        raise ModelError(f"class {name!r}: expected one of {have}, and not the only one")
    if detector.heads.is_softmax:
        raise ModelError("a softmax's classes learn together; expected a model with SVMs")
    kept = [c for c, own in enumerate(detector.classes) if own != name]
    heads = Heads(
        *(one[kept] for one in (detector.heads.svm_coef, detector.heads.svm_intercept)),
        *(
            one[kept]
            for one in (detector.heads.regression_coef, detector.heads.regression_intercept)
        ),
    )
    classes = tuple(detector.classes[c] for c in kept)
    return detector.with_heads(classes, heads, detector.calibration)


def add_negatives(
    dataset: LabelledSet, paths: Sequence[Path], max_side: int = DEFAULT_MAX_SIDE
) -> LabelledSet:
    """Add photographs that show nothing of a set's classes; those that cannot be read are told.

    Parameters
    ----------
    dataset : LabelledSet
        Any.
    paths : sequence of Path
        Their files.
    max_side : int
        Largest side in pixels.
    """
    none = Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    more = []
    for path in paths:
        try:
            height, width = read_photo(path, max_side).shape[:2]
        except DataError as error:
            logger.warning("left out: %s", error)
        else:
            more.append(Photograph(f"negative {path}", path, width, height, none))
    return replace(dataset, photographs=(*dataset.photographs, *more))


def _join(ours: Heads, new: Heads) -> Heads:
    """Join heads: the classes of both."""
    pairs = zip(ours.buffers(), new.buffers(), strict=True)
    return Heads(*(torch.cat([one, other.to(one.device)]) for one, other in pairs))
