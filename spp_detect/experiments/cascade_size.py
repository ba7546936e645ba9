"""How many windows a cascade's first stage must let through, found on photographs held out."""

from __future__ import annotations

from collections.abc import Sequence

from data import LabelledSet
from eval import Detections
from spp_detect.cascade import keep_rows
from spp_detect.detector import Detector, ModelError
from spp_detect.evaluation import measure, prepare_dataset
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
    cascade : a detector with a first stage.
    dataset : photographs on which neither of its stages was trained.
    max_side : largest side of a photograph in pixels.
    counts : distinct windows let through.

    Returns
    -------
    mAP by count, as a fraction; 0 is for all windows.
    """
    assert cascade.first is not None
    found: dict[int, list[Detections]] = {count: [] for count in (0, *counts)}
    source = search_windows(cascade.proposal_settings)
    for photo, windows in prepare_dataset(dataset, source, max_side):
        maps = cascade.extractor.compute_maps(photo)
        pooled = cascade.extractor.pool(maps, windows)
        described = cascade.describe(pooled)
        for count, detections in found.items():
            rows = cascade.first.find_best(pooled.features, count or len(described))
            kept, own = keep_rows(pooled, windows, rows)
            scored = cascade.classify(kept, described[rows], own, maps.size)
            detections.append(select_detections([scored], cascade.config))
    return {count: measure(one, dataset)[0].mean_ap for count, one in found.items()}


def choose_count(mean_ap: dict[int, float]) -> int:
    """Choose the least count that loses no more than `MOST_LOSS`, as all larger ones.

    Raises
    ------
    ModelError
        where every count loses more.
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
