"""Several models together: NMS over the union of their scored windows (paper, section 4.4).

Where each knows what its scores mean, they are brought to log-odds before; else they are joined as
they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spp_detect.calibration import Calibration
from spp_detect.config import LOG_ODDS, change_test_time, to_mapping
from spp_detect.detector import Detector, PhotoDetector
from spp_detect.model_folder import ModelError, read_description
from spp_detect.postprocess import ScoredWindows
from spp_detect.ready_models import find_model


class CombinedDetector(PhotoDetector):
    """Several models of the same classes; windows are proposed once, by the first's settings.

    Parameters
    ----------
    members : sequence of Detector
        At least one model.
    changed : dict, optional
        Constants of test time, for scores as they are joined.

    Raises
    ------
    ModelError
        For models of other classes than the first's.
    """

    def __init__(self, members: Sequence[Detector], changed: dict[str, Any] | None = None) -> None:
        first = members[0]
        for member in members[1:]:
            if member.classes != first.classes:
                raise ModelError(
                    f"models of different classes: {', '.join(member.classes)}; expected those of "
                    f"the first: {', '.join(first.classes)}"
                )
        self.members: tuple[Detector, ...] = tuple(members)
        self.classes = first.classes
        known = all(member.calibration is not None for member in members)
        self.calibration = Calibration.identity() if known else None
        self.changed = changed or {}
        joined = {"support": min(member.config.support for member in members)}
        joined |= LOG_ODDS if known else {}
        self.config = change_test_time(first.config, joined | self.changed)
        self.proposal_settings = first.proposal_settings

    def identify(self) -> dict[str, Any]:
        """Tell what decides what is found; see `PhotoDetector.identify`."""
        members = [member.identify() for member in self.members]
        return {"members": members, "config": to_mapping(self.config)}

    def change(self, **constants: Any) -> CombinedDetector:
        """Make the same with other constants of test time; see `PhotoDetector.change`."""
        # Where scores are joined as log-odds, thresholds are not those of the members' own scores.
        own = constants if self.calibration is None else _keep(constants, "passes", "mirror")
        members = [member.change(**own) for member in self.members]
        return CombinedDetector(members, self.changed | constants)

    def score_passes(
        self, photo: NDArray[np.uint8], windows: NDArray[np.float32], passes: int
    ) -> list[ScoredWindows]:
        """Score windows by each member; see `PhotoDetector.score_passes`."""
        scored = []
        for member in self.members:
            own = member.score_passes(photo, windows, passes)
            known = member.calibration if self.calibration is not None else None
            scored += own if known is None else [one.calibrate(known) for one in own]
        return [replace(one, share=1 / len(self.members)) for one in scored]


def _keep(constants: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: constants[name] for name in names if name in constants}


def load_detector(
    models: Sequence[str | Path], device: str = "auto", weights: str | None = None
) -> PhotoDetector:
    """Load one model, or several to detect together; all as `Detector.load` does.

    Raises
    ------
    ModelError
        For a model that `Detector.load` refuses, or models of different classes.
    """
    folders = [find_model(model) for model in models]
    packed = [bool(read_description(folder).public_trunk) for folder in folders]
    # Of several models only those that need them are given weights.
    each = [weights if one or not any(packed) else None for one in packed]
    detectors = [
        Detector.load(folder, device, own) for folder, own in zip(folders, each, strict=True)
    ]
    return detectors[0] if len(detectors) == 1 else CombinedDetector(detectors)
