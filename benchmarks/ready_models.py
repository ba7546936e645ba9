"""What the parts of models give, and several together, on a split of all of VOC 2007.

    python benchmarks/ready_models.py VOC --work runs/ready_models \
        --out results/voc2007/ready_models.json

The models are the ready ones, or those of `--models`, folders of runs among them. Each photograph
is searched, and its windows scored by each model, once; every row selects among the same scores.
Nothing is chosen here: the rows are those of the paper's tables, the models' own defaults, and all
models' windows joined as `evaluate MODEL MODEL` joins them. With `--mirror` windows' mirror images
are scored, too, and the rows of one pass are there without them as well.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timing import write_result

from data import DEFAULT_MAX_SIDE, open_dataset
from eval import Detections
from proposals import ProposalCache
from spp_detect.detector import Detector, PhotoDetector
from spp_detect.ensemble import CombinedDetector, load_detector
from spp_detect.evaluation import measure, prepare_dataset
from spp_detect.postprocess import ScoredWindows, select_detections
from spp_detect.prefetch import search_windows
from spp_detect.threads import set_threads

ONCE, UNRAISED, RAISED = {"passes": 1}, {"support": 0.0}, {"support": 0.15}
# Each row: its constants of test time, and how `select_detections` selects.
ROWS: dict[str, tuple[dict[str, Any], dict[str, bool]]] = {
    "no regression": (ONCE, {"regress": False}),
    "regression": (ONCE, {"vote": False}),
    "regression, vote": (ONCE | UNRAISED, {}),
    "scored again where they lie then, no vote": ({}, {"vote": False}),
    "scored again where they lie then, vote": (UNRAISED, {}),
    "scored again where they lie then, vote that raises scores": (RAISED, {}),
}
ROWS_OF_ONE_PASS = {row: told for row, told in ROWS.items() if "passes" in told[0]}


def select_rows(
    scored: list[list[ScoredWindows]],
    detector: PhotoDetector,
    rows: dict[str, tuple[dict[str, Any], dict[str, bool]]] = ROWS,
) -> dict[str, Detections]:
    """Select a photograph's detections in every row, from each model's passes."""
    found = {}
    for row, (constants, way) in rows.items():
        config = detector.change(**constants).config
        kept = [one for own in scored for one in own[: constants.get("passes")]]
        parts = [replace(one, share=1 / len(scored)) for one in kept]
        found[row] = select_detections(parts, config, **way)
    return found


def detect_together(
    detectors: dict[str, Detector],
    joined: PhotoDetector,
    photo: NDArray[np.uint8],
    windows: NDArray[np.float32],
) -> dict[str, dict[str, Detections]]:
    """Detect by each model, and by all joined where there are several, in every row."""
    found, scored = {}, []
    for name, detector in detectors.items():
        own = detector.score_passes(photo, windows, detector.config.passes)
        found[name] = select_rows([own], detector)
        if detector.config.mirror:
            once = detector.change(mirror=False).score_passes(photo, windows, 1)
            alone = select_rows([once], detector, ROWS_OF_ONE_PASS)
            found[f"{name}, no mirror images"] = alone
        known = detector.calibration if joined.calibration is not None else None
        scored.append(own if known is None else [one.calibrate(known) for one in own])
    return found | {"joined": select_rows(scored, joined)} if len(scored) > 1 else found


def main() -> None:
    """Detect once, measure every row, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", default=["voc2007", "voc2007_tuned"])
    parser.add_argument("--weights", help="the trunk of ready models: as detect takes it")
    parser.add_argument("--split", default="test")
    parser.add_argument("--mirror", action="store_true", help="twice the work")
    parser.add_argument("--work", type=Path, required=True, help="keeps the windows")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    set_threads()
    dataset = open_dataset(arguments.data, arguments.split)
    joined = load_detector(arguments.models, weights=arguments.weights)
    joined = joined.change(mirror=True) if arguments.mirror else joined
    members = joined.members if isinstance(joined, CombinedDetector) else [joined]
    names = [Path(model).name for model in arguments.models]
    detectors = dict(zip(names, members, strict=True))
    source = search_windows(joined.proposal_settings, ProposalCache(arguments.work))
    found: dict[str, dict[str, list[Detections]]] = {}
    for photo, windows in prepare_dataset(dataset, source, DEFAULT_MAX_SIDE):
        for model, rows in detect_together(detectors, joined, photo, windows).items():
            for row, one in rows.items():
                found.setdefault(model, {}).setdefault(row, []).append(one)
    measured = {
        model: {row: measure(own, dataset)[1] for row, own in rows.items()}
        for model, rows in found.items()
    }
    write_result(arguments.out, {"rows": measured, "photographs": len(dataset)})


if __name__ == "__main__":
    main()
