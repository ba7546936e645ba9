"""What scripts about classifiers share: images evenly spread over those of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spp_detect.classification.images import Images, open_images
from spp_detect.classification.network import load_classifier


def open_spread(data: Path, split: str, runs: list[Path], count: int) -> Images:
    """Open images evenly spread over a split's, by the classes that all the classifiers have."""
    classes = load_classifier(runs[0]).classes
    for run in runs[1:]:
        if load_classifier(run).classes != classes:
            raise SystemExit(f"{run}: expected the first run's classes")
    images = open_images(data, split, classes)
    rows = np.linspace(0, len(images) - 1, min(count, len(images))).astype(np.int64)
    return images.choose(rows)
