"""How many windows a cascade's first stage must let through, found on photographs held out."""

from __future__ import annotations

from collections.abc import Sequence

from data import LabelledSet
from eval import Detections
from spp_detect.detector import Detector
from spp_detect.evaluation import measure, prepare_dataset
from spp_detect.model_folder import ModelError
from spp_detect.postprocess import select_detections
from spp_detect.prefetch import search_windows

COUNTS = (50, 100, 150, 200, 300, 400, 500, 700, 1000)  # of distinct windows
MOST_LOSS = 0.005  # of mAP


def measure_counts(
    cascade: Detector, dataset: LabelledSet, max_side: int, counts: Sequence[int] = COUNTS
) -> dict[int, float]:
    """Measure mAP with several counts of windows let through, in one pass over the photographs.

    Parameters
    ----------
    cascade : Detector
        With a first stage.
    dataset : LabelledSet
        Photographs on which neither of its stages was trained.
    max_side : int
        Largest side of a photograph in pixels.
    counts : sequence of int
        Distinct windows let through.

    Returns
    -------
    dict of int to float
        mAP by count, as a fraction; 0 is for all windows.
    """
    detectors = {count: cascade.let_through(count) for count in (0, *counts)}
    found: dict[int, list[Detections]] = {count: [] for count in detectors}
    source = search_windows(cascade.proposal_settings)
    for photo, windows in prepare_dataset(dataset, source, max_side):
        features = cascade.compute_maps(photo)
        pooled = features.pool(windows)
        for count, detector in detectors.items():
            first = detector.score_pooled(pooled)
            moved = detector.score_moved(features, first, cascade.config.passes - 1)
            found[count].append(select_detections([first, *moved], cascade.config))
    return {count: measure(one, dataset)[0].mean_ap for count, one in found.items()}


def choose_count(mean_ap: dict[int, float]) -> int:
    """Choose the least count that loses no more than `MOST_LOSS`, as all larger ones.

    Raises
    ------
    ModelError
        Where every count loses more.
    """
    enough = 0
    for count in sorted((count for count in mean_ap if count), reverse=True):
        if not mean_ap[count] >= mean_ap[0] - MOST_LOSS:  # NaN, too
            break
        enough = count
    if not enough:
        raise ModelError(
            f"a cascade: its first stage loses more than {MOST_LOSS} mAP with {max(mean_ap)} "
            "windows; expected one that is nearly as good as the whole"
        )
    return enough
