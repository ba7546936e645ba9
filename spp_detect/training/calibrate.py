"""What the SVMs' scores are worth, by photographs that some of them were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from data import LabelledSet, read_photo
from eval import Detections, EvalError, evaluate_voc, fit_odds
from spp_detect.calibration import Calibration
from spp_detect.config import change_test_time
from spp_detect.detector import Detector
from spp_detect.evaluation import collect_truths
from spp_detect.files import write_tensors
from spp_detect.postprocess import select_detections
from spp_detect.progress import track
from spp_detect.training.feature_cache import FeatureCache
from spp_detect.training.run_folder import read_tensors
from spp_detect.training.stage import Stage

FEWEST = 20  # photographs, of which a part can be held out
HELD_OUT = 5  # every fifth photograph is held out, of so many at most:
MOST_HELD_OUT = 500


def hold_out(photographs: list[int]) -> list[int]:
    """Choose the photographs that the scores are measured on; of very few none."""
    if len(photographs) < FEWEST:
        return []
    return photographs[:: max(HELD_OUT, -(-len(photographs) // MOST_HELD_OUT))]


class Calibrate(Stage[Calibration | None]):
    """Detect in photographs with SVMs that were trained without them, and fit what scores mean.

    Parameters
    ----------
    work : Path
        The run's work folder.
    dataset : LabelledSet
        The photographs.
    held_out : list of int
        Those that the detector's SVMs were trained without.
    cache : FeatureCache
        Has the windows.
    make_detector : callable
        Makes the detector of those SVMs.
    """

    name = "calibration"

    def __init__(
        self,
        work: Path,
        dataset: LabelledSet,
        held_out: list[int],
        cache: FeatureCache,
        make_detector: Callable[[], Detector],
    ) -> None:
        self.leaves = (work / "calibration.safetensors",)
        self.dataset = dataset
        self.held_out = held_out
        self.cache = cache
        self.make_detector = make_detector

    def run(self) -> None:
        """Detect, and fit; where there are too few detections nothing is known of the scores."""
        detector = self.make_detector()
        found: tuple[list[Detections], list[Detections]] = ([], [])
        configs = detector.config, change_test_time(detector.config, {"support": 0.0})
        for i in track(self.held_out, self.name):
            photo = read_photo(self.dataset.photographs[i].path, self.cache.max_side)
            windows = self.cache.table.find(i)[self.cache.table.find_proposals(i)]
            scored = detector.score_passes(photo, windows, detector.config.passes)
            for own, config in zip(found, configs, strict=True):
                own.append(select_detections(scored, config))
        every = collect_truths(self.dataset)
        truths = [every[i] for i in self.held_out]
        tensors = {"photographs": torch.tensor([len(self.held_out)])}
        try:
            fits = [fit_odds(evaluate_voc(own, truths, self.dataset.classes)) for own in found]
            names = "odds", "window_odds"
            tensors |= {
                name: torch.tensor(odds, dtype=torch.float64)
                for name, odds in zip(names, fits, strict=True)
            }
        except EvalError:
            pass  # told by the model, which has no probabilities
        write_tensors(self.leaves[0], tensors)

    def load(self) -> Calibration | None:
        """Read what was fitted; None where there were too few detections."""
        tensors = read_tensors(self.leaves[0])
        if "odds" not in tensors:
            return None
        return Calibration(tensors["odds"], tensors.get("window_odds"))
