"""A class more without training the others again: linear classifiers share only features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from data import DEFAULT_MAX_SIDE, LabelledSet, Labels, Photograph, photo_size
from spp_detect.config import RunConfig
from spp_detect.detector import Detector
from spp_detect.heads import Heads
from spp_detect.model_folder import ModelError
from spp_detect.training.feature_cache import Resources
from spp_detect.training.run import TrainingRun, check_positives


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
        For a class that the detector has, and for a softmax, whose classes learn together.
    TrainingError
        For a set without a box to learn from.
    """
    (name,) = dataset.classes
    if name in detector.classes:
        raise ModelError(f"class {name!r}: the model has it; expected another")
    if detector.heads.is_softmax:
        raise ModelError("a softmax's classes learn together; expected a model with SVMs")
    check_positives(dataset)
    # Of how the detector was trained only what its SVMs and regressors were holds here.
    training = replace(detector.training, finetune_iterations=0, train_from="")
    config = RunConfig(replace(detector.config, promising=0, fc_rank=0), training)
    run = TrainingRun(work, dataset, config, detector.extractor.backbone, resources)
    run.fc_layers = detector.fc
    heads = run.train_heads()
    return detector.with_heads(
        (*detector.classes, name),
        _join(detector.heads, heads),
        detector.calibration,  # one for all classes
    )


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
    """Add photographs that show nothing of a set's classes.

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
    more = [
        Photograph(f"negative {path}", path, *photo_size(path, max_side), none) for path in paths
    ]
    return replace(dataset, photographs=(*dataset.photographs, *more))


def _join(ours: Heads, new: Heads) -> Heads:
    """Join heads: the classes of both."""
    pairs = zip(ours.buffers(), new.buffers(), strict=True)
    return Heads(*(torch.cat([one, other.to(one.device)]) for one, other in pairs))
