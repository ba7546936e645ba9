"""Seconds per stage: SPP-net at one scale and at several, R-CNN beside them (paper, table 10)."""

from __future__ import annotations

import dataclasses
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import torch
from numpy.typing import NDArray

from data import DEFAULT_MAX_SIDE, find_photographs, is_labelled, open_dataset, read_photo
from proposals import propose
from spp_detect.config import PAPER_SCALES, SINGLE_SCALE
from spp_detect.detector import Detector
from spp_detect.dtype import find_dtype
from spp_detect.postprocess import select_detections
from spp_detect.progress import track
from spp_detect.provenance import record_run
from spp_detect.rcnn import RcnnExtractor
from spp_detect.spp import SppExtractor
from spp_detect.training.run_folder import fingerprint_weights

STAGES = ("reading", "proposals", "conv", "pooling", "fc", "classification")
PAPER_STAGES = ("conv", "pooling", "fc")  # what the paper's tables 9 and 10 count
RCNN = "R-CNN"
RCNN_WARM_UP = 256  # windows: enough for whole batches, and soon done


class BenchmarkError(ValueError):
    """Models that cannot be compared; one line says why."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What is measured.

    Attributes
    ----------
    single_scale : int
        Short side in pixels of SPP-net at one scale.
    scales : tuple of int
        Those of SPP-net at several.
    windows : int
        Most windows of a photograph.
    rcnn_photographs : int, optional
        R-CNN takes the first so many photographs; all if None.
    repeats : int
        Times each contender works through a photograph; the median of a stage counts.
    max_side : int
        Largest side of a photograph in pixels.
    """

    single_scale: int = SINGLE_SCALE
    scales: tuple[int, ...] = PAPER_SCALES
    windows: int = 2000
    rcnn_photographs: int | None = None
    repeats: int = 1
    max_side: int = DEFAULT_MAX_SIDE


class StageClock:
    """Adds up the seconds of stages; a stage inside another is not counted in that one.

    Parameters
    ----------
    device : torch.device
        A GPU's queued work is waited for at both ends of a stage.

    Attributes
    ----------
    seconds : dict of float
        By the stage's name.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure what is done in the context."""
        self._turn()
        self._running.append(stage)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()

    def _turn(self) -> None:
        """Give the time since the last turn to the innermost stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def run_benchmark(
    detector: Detector,
    paths: Sequence[Path],
    settings: BenchmarkSettings,
    rcnn: Detector | None = None,
) -> dict[str, Any]:
    """Measure the contenders' seconds per stage, in turn on each photograph.

    Parameters
    ----------
    detector : Detector
        Its weights are every contender's.
    paths : sequence of Path
        The photographs.
    settings : BenchmarkSettings
        What is measured.
    rcnn : Detector, optional
        A model whose fc layers and heads are R-CNN's; the detector's own if None.

    Returns
    -------
    dict
        What benchmark.json holds: per contender the median and the quartiles of each stage in
        seconds over photographs, the speed-ups, the record of each photograph.

    Raises
    ------
    BenchmarkError
        For models that differ in more than their heads.
    DataError
        For a photograph that cannot be read, before anything is measured.
    """
    contenders = make_contenders(detector, rcnn or detector, settings)
    for path in track(paths, "checking"):
        read_photo(path, settings.max_side)
    _warm_up(contenders, paths[0], settings)
    photographs = [
        _measure_photograph(contenders, path, turn, settings)
        for turn, path in enumerate(track(paths, "benchmark"))
    ]
    return {
        **_list_conditions(detector, settings),
        "contenders": {
            name: {
                "scales": None if name == RCNN else list(one.config.scales),
                "heads_trained_with": one.config.extractor,
                **_summarise(photographs, name),
            }
            for name, one in contenders.items()
        },
        "speedup": {name: _compare(photographs, name) for name in contenders if name != RCNN},
        "photographs": photographs,
        "record": record_run(),
    }


def make_contenders(
    detector: Detector, rcnn: Detector, settings: BenchmarkSettings
) -> dict[str, Detector]:
    """Make SPP-net at one scale and at several, and R-CNN, of the same trunk.

    All score windows in one pass, as the paper's.
    """
    _check_comparable(detector, rcnn)
    if len(settings.scales) < 2:
        raise BenchmarkError(f"scales {settings.scales}: expected at least two")
    contenders = {}
    for scales in ((settings.single_scale,), settings.scales):
        config = dataclasses.replace(detector.config, scales=scales, passes=1)
        extractor = SppExtractor(detector.extractor.backbone, config, detector.extractor.device)
        name = f"SPP-net, {len(scales)} scale{'s' if len(scales) > 1 else ''}"
        parts = detector.classes, extractor, detector.heads, detector.fc, detector.first
        contenders[name] = Detector(config, *parts)
    config = dataclasses.replace(rcnn.config, passes=1)
    warping = RcnnExtractor(detector.extractor.backbone, config, detector.extractor.device)
    contenders[RCNN] = Detector(config, rcnn.classes, warping, rcnn.heads, rcnn.fc)
    return contenders


def sample_photographs(data: Path, split: str, count: int, seed: int, max_side: int) -> list[Path]:
    """Choose photographs of a labelled split or of a folder at random, all where there are fewer.

    Raises
    ------
    DataError
        For data that cannot be read.
    """
    if is_labelled(data):
        paths = [photograph.path for photograph in open_dataset(data, split, max_side=max_side)]
    else:
        paths = find_photographs(data)
    order = np.random.default_rng(seed).permutation(len(paths))
    return [paths[i] for i in order[:count]]


def sum_stages(seconds: dict[str, float], stages: Sequence[str]) -> float:
    """Add up some stages of a photograph."""
    return sum(seconds[stage] for stage in stages)


def _check_comparable(detector: Detector, rcnn: Detector) -> None:
    trunks = [fingerprint_weights(one.extractor.backbone) for one in (detector, rcnn)]
    if trunks[0] != trunks[1]:
        raise BenchmarkError(
            f"R-CNN's model has other trunk weights (sha256 {trunks[1][:12]}) than SPP-net's "
            f"({trunks[0][:12]}); expected the same"
        )
    for name in ("backbone", "parts", "levels", "feature", "fc_width"):
        ours, other = getattr(detector.config, name), getattr(rcnn.config, name)
        if ours != other:
            raise BenchmarkError(f"R-CNN's model has {name} {other}, SPP-net's {ours}")
    if detector.classes != rcnn.classes:
        raise BenchmarkError(
            f"R-CNN's model knows {', '.join(rcnn.classes)}; expected SPP-net's classes "
            f"{', '.join(detector.classes)}"
        )


def _warm_up(contenders: dict[str, Detector], path: Path, settings: BenchmarkSettings) -> None:
    """Let everything that is compiled or allocated at its first use be so."""
    photo = read_photo(path, settings.max_side)
    windows = _propose(next(iter(contenders.values())), photo, settings)
    for name, detector in contenders.items():
        _measure_contender(
            name, detector, photo, windows[:RCNN_WARM_UP] if name == RCNN else windows
        )


def _measure_photograph(
    contenders: dict[str, Detector], path: Path, turn: int, settings: BenchmarkSettings
) -> dict[str, Any]:
    """Measure the contenders on one photograph, in an order that rotates from turn to turn."""
    clock = StageClock(torch.device("cpu"))
    with clock("reading"):
        photo = read_photo(path, settings.max_side)
    with clock("proposals"):
        windows = _propose(next(iter(contenders.values())), photo, settings)
    names = list(contenders)
    if settings.rcnn_photographs is not None and turn >= settings.rcnn_photographs:
        names.remove(RCNN)
    names = names[turn % len(names) :] + names[: turn % len(names)]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(settings.repeats):
        for name in names:
            runs[name].append(_measure_contender(name, contenders[name], photo, windows))
    measured = {
        name: {key: float(np.median([run[key] for run in own])) for key in own[0]}
        for name, own in runs.items()
    }
    return {
        "name": path.name,
        "size": [photo.shape[1], photo.shape[0]],
        "windows": len(windows),
        "distinct_windows": {name: int(one.pop("distinct")) for name, one in measured.items()},
        "warp": {name: one.pop("warp") for name, one in measured.items() if "warp" in one},
        "seconds": {name: {**clock.seconds, **one} for name, one in measured.items()},
    }


def _measure_contender(
    name: str, detector: Detector, photo: NDArray[np.uint8], windows: NDArray[np.float32]
) -> dict[str, float]:
    """Seconds of each stage after the proposals, and how many windows were distinct."""
    clock = StageClock(detector.extractor.device)
    pooled = detector.pool(photo, windows, clock)
    scored = detector.score_pooled(pooled, clock)
    with clock("classification"):
        select_detections([scored], detector.config)
    seconds = {stage: clock.seconds[stage] for stage in STAGES[2:]}
    if name == RCNN:
        # A part of its convolutions, which run window by window.
        seconds["warp"] = clock.seconds["warp"]
        seconds["conv"] += seconds["warp"]
    return {**seconds, "distinct": len(pooled.first)}


def _propose(
    detector: Detector, photo: NDArray[np.uint8], settings: BenchmarkSettings
) -> NDArray[np.float32]:
    method = dataclasses.replace(detector.proposal_settings, max_windows=settings.windows)
    return propose(photo, method)


def _list_conditions(detector: Detector, settings: BenchmarkSettings) -> dict[str, Any]:
    """What the numbers must be read with, beside the record."""
    config = detector.config
    return {
        "settings": dataclasses.asdict(settings),
        "backbone": config.backbone,
        "weights": config.weights,
        "trunk": fingerprint_weights(detector.extractor.backbone),
        "feature": config.feature,
        "fc_layers": detector.fc is not None,
        "fc_rank": config.fc_rank,
        "promising": config.promising,
        "classes": len(detector.classes),
        "proposals": config.proposals,
        "device": str(detector.extractor.device),
        "dtype": find_dtype(config.precision, detector.extractor.device),
        "threads": {
            "torch": torch.get_num_threads(),
            "numba": numba.get_num_threads(),
            "opencv": cv2.getNumThreads(),
        },
    }


def _summarise(photographs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Median and quartiles of a contender's stages, over the photographs that it worked on."""
    own = [one for one in photographs if name in one["seconds"]]
    seconds = [one["seconds"][name] for one in own]
    summary = {
        "photographs": len(own),
        "windows": _find_spread([one["windows"] for one in own]),
        "distinct_windows": _find_spread([one["distinct_windows"][name] for one in own]),
        "stages": {stage: _find_spread([one[stage] for one in seconds]) for stage in STAGES},
        "paper": _find_spread([sum_stages(one, PAPER_STAGES) for one in seconds]),
        "all": _find_spread([sum_stages(one, STAGES) for one in seconds]),
    }
    if name in own[0]["warp"]:
        summary["warp"] = _find_spread([one["warp"][name] for one in own])
    return summary


def _compare(photographs: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """How many times as long R-CNN takes on a photograph, as the paper counts and in all."""
    both = [one["seconds"] for one in photographs if RCNN in one["seconds"]]
    ratios = {
        key: [sum_stages(one[RCNN], stages) / sum_stages(one[name], stages) for one in both]
        for key, stages in (("paper", PAPER_STAGES), ("all", STAGES))
    }
    return {
        "photographs": len(both),
        **{key: _find_spread(values) for key, values in ratios.items()},
    }


def _find_spread(values: Sequence[float]) -> dict[str, Any]:
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    return {"median": median, "quartiles": [low, high]}
