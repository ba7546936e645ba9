"""The paper's tables 9 and 10 for anybody's labelled photographs, filled run by run."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import LabelledSet
from eval import Detections
from proposals import ProposalCache
from spp_detect.backbones import Backbone
from spp_detect.config import ConfigError, RunConfig, to_mapping
from spp_detect.detector import Detector, make_proposal_settings
from spp_detect.evaluation import measure, prepare_dataset
from spp_detect.experiments import published
from spp_detect.experiments.speed import RCNN, BenchmarkSettings, run_benchmark
from spp_detect.files import write_json, write_text
from spp_detect.postprocess import ScoredWindows, select_detections
from spp_detect.prefetch import search_windows
from spp_detect.provenance import record_run
from spp_detect.training.feature_cache import Resources
from spp_detect.training.run import SharedFiles, TrainingRun
from spp_detect.training.run_folder import check_identity, fingerprint_dataset, fingerprint_weights

Way = dict[str, bool]  # how `select_detections` selects
PLAIN: Way = {"regress": False}
VOTE = "ftfc7 bb, vote"  # beyond the paper
# Each model's rows, in the order of training: ftfc6 takes over what ftfc7 tuned.
ROWS: dict[str, dict[str, Way]] = {
    "pool5": {"pool5": PLAIN},
    "fc6": {"fc6": PLAIN},
    "ftfc7": {
        "ftfc7": PLAIN,
        "ftfc7 bb": {"regress": True, "vote": False},
        VOTE: {"regress": True, "vote": True},
    },
    "ftfc6": {"ftfc6": PLAIN},
}


@dataclass(frozen=True)
class TablePlan:
    """What the tables are made of.

    Attributes
    ----------
    train, test : LabelledSet
        Photographs with the same classes.
    config : RunConfig
        The constants, iterations of the fine-tuning among them; scales, feature and extractor are
        those of each cell, and windows are scored in one pass, as the paper's.
    scales : pair of tuples of int
        Short sides in pixels, of the columns with one scale and of those with several.
    columns : tuple of str
        Of the paper's, those to fill.
    photographs : int
        How many are timed.
    rcnn_windows : int
        How many of a photograph's windows, the first ones, R-CNN's column is trained on; every
        column is measured on all of them.
    """

    train: LabelledSet
    test: LabelledSet
    config: RunConfig
    scales: tuple[tuple[int, ...], tuple[int, ...]]
    columns: tuple[str, ...]
    photographs: int
    rcnn_windows: int

    def __post_init__(self) -> None:
        if len(self.scales[1]) < 2:
            raise ConfigError(f"scales {self.scales[1]}: expected at least two for their column")


class TableMaker:
    """Fills the tables in a folder, each cell once: stopped anywhere, it goes on.

    Parameters
    ----------
    out : Path
        Gets a folder per column and model, a json per cell, tables.json and tables.md.
    plan : TablePlan
        What is trained and measured.
    make_backbone : callable
        Makes the trunk with its first weights.
    resources : Resources
        Device, disk, largest photograph.
    fc_weights : dict of str to torch.Tensor, optional
        fc6 and fc7 of the net that the trunk comes from, where it had them.
    """

    def __init__(
        self,
        out: Path,
        plan: TablePlan,
        make_backbone: Callable[[], Backbone],
        resources: Resources,
        fc_weights: dict[str, Any] | None = None,
    ) -> None:
        self.out = out
        self.plan = plan
        self.make_backbone = make_backbone
        self.resources = resources
        self.fc_weights = fc_weights

    def fill(self) -> dict[str, Any]:
        """Fill every cell that is empty and write the tables: the content of tables.json.

        Raises
        ------
        TrainingError
            Where the folder's cells are of another plan.
        """
        self._begin()
        model, training = self.plan.config.model, self.plan.config.training
        cells = {column: self._fill_column(column) for column in self.plan.columns}
        result = {
            "mean_ap": cells,
            "seconds": self._time(),
            "paper": {"mean_ap_percent": published.MEAN_AP, "seconds": published.SECONDS},
            "train": f"{self.plan.train.split}, {len(self.plan.train)} photographs",
            "test": f"{self.plan.test.split}, {len(self.plan.test)} photographs",
            "backbone": model.backbone,
            "weights": model.weights,
            "iterations": training.finetune_iterations,
            "max_windows": model.max_windows,
            "rcnn_windows": self.plan.rcnn_windows,
            "train_from": training.train_from,
            "mirrored": training.mirror_finetuning,
            "fc_start": self._find_fc_start(),
            "vote": model.vote_iou is not None,
            "record": record_run(),
        }
        write_json(self.out / "tables.json", result)
        write_text(self.out / "tables.md", render_tables(result))
        return result

    def _begin(self) -> None:
        """Write down what the tables are made of, or check that the folder's are of the same."""
        plan = self.plan
        identity = {
            "config": to_mapping(plan.config.model) | to_mapping(plan.config.training),
            "scales": plan.scales,
            "photographs timed": plan.photographs,
            "train": fingerprint_dataset(plan.train),
            "test": fingerprint_dataset(plan.test),
            "trunk": fingerprint_weights(self.make_backbone()),
        }
        _claim(self.out / "plan.json", identity)
        if RCNN in plan.columns:
            _claim(self.out / RCNN / "plan.json", {"training windows": plan.rcnn_windows})

    def _find_fc_start(self) -> str:
        """What fc6 and fc7 started from, as a trained model tells it."""
        first = self.out / self.plan.columns[0].replace(" ", "_") / "ftfc7" / "metrics.json"
        return str(json.loads(first.read_text(encoding="utf-8"))["fc_start"])

    def _fill_column(self, column: str) -> dict[str, float]:
        """Fill a column: its models share the frozen trunk's maps."""
        name = column.replace(" ", "_")
        cells = {
            row: self.out / f"{name}-{row.replace(',', '').replace(' ', '_')}.json"
            for rows in ROWS.values()
            for row in rows
        }
        if not all(path.is_file() for path in cells.values()):
            models = {
                model: self._train(self.out / name / model, self._configure(column, model))
                for model in ROWS
            }
            shutil.rmtree(self.out / name / "maps", ignore_errors=True)
            for row, numbers in self._measure(models).items():
                write_json(cells[row], numbers | {"row": row})
        return {
            row: float(json.loads(path.read_text(encoding="utf-8"))["mAP"])
            for row, path in cells.items()
        }

    def _configure(self, column: str, model: str) -> RunConfig:
        plan, tuned = self.plan, model.startswith("ft")
        rcnn = column == RCNN
        return RunConfig(
            dataclasses.replace(
                plan.config.model,
                max_windows=plan.rcnn_windows if rcnn else plan.config.model.max_windows,
                scales=plan.scales[column == "5 scales"],
                passes=1,
                support=0.0,
                extractor="rcnn" if rcnn else "spp",
                feature=model.removeprefix("ft"),
                scores="svm",
            ),
            dataclasses.replace(
                plan.config.training,
                finetune_iterations=plan.config.training.finetune_iterations if tuned else 0,
                train_from=plan.config.training.train_from if tuned and not rcnn else "",
            ),
        )

    def _train(self, folder: Path, config: RunConfig) -> Detector:
        if (folder / "metrics.json").is_file():
            return Detector.load(folder, self.resources.device.type)
        tuned = folder.parent / "ftfc7" / "work" / "tuned.safetensors"
        shared = SharedFiles(
            proposals=self.out / "proposals",
            maps=None if config.training.train_from else folder.parent / "maps",
            tuned=tuned if folder.name == "ftfc6" and tuned.is_file() else None,
        )
        run = TrainingRun(
            folder,
            self.plan.train,
            config,
            self.make_backbone(),
            self.resources,
            fc_weights=self.fc_weights,
            shared=shared,
        )
        return run.train()

    def _measure(self, models: dict[str, Detector]) -> dict[str, dict[str, Any]]:
        """Measure every row of a column; windows are pooled once for models of the same trunk."""
        settings = make_proposal_settings(self.plan.config.model)
        source = search_windows(settings, ProposalCache(self.out / "proposals"))
        trunks: dict[str, list[str]] = {}
        for model, detector in models.items():
            trunk = fingerprint_weights(detector.extractor.backbone)
            trunks.setdefault(trunk, []).append(model)
        found: dict[str, list[Detections]] = {row: [] for rows in ROWS.values() for row in rows}
        for photo, windows in prepare_dataset(self.plan.test, source, self.resources.max_side):
            for names in trunks.values():
                scored = _score_together([models[name] for name in names], photo, windows)
                for name, one in zip(names, scored, strict=True):
                    for row, way in ROWS[name].items():
                        found[row].append(select_detections([one], models[name].config, **way))
        record = record_run()
        return {
            row: measure(own, self.plan.test)[1] | {"record": record} for row, own in found.items()
        }

    def _time(self) -> dict[str, Any]:
        """Seconds of the fine-tuned models' stages, once for all columns."""
        path = self.out / "benchmark.json"
        if not path.is_file():
            first = self.plan.columns[0].replace(" ", "_")
            detector = Detector.load(self.out / first / "ftfc7", self.resources.device.type)
            photographs = self.plan.test.photographs[: self.plan.photographs]
            (single,), several = self.plan.scales
            settings = BenchmarkSettings(single, several, self.plan.config.model.max_windows)
            write_json(path, run_benchmark(detector, [p.path for p in photographs], settings))
        return dict(json.loads(path.read_text(encoding="utf-8")))


def _claim(path: Path, identity: dict[str, Any]) -> None:
    """Write down what a folder is filled by, or check that an earlier start wrote the same."""
    if path.is_file():
        check_identity(path, identity, "the tables were")
    else:
        write_json(path, identity)


def _score_together(
    models: list[Detector], photo: NDArray[np.uint8], windows: NDArray[np.float32]
) -> list[ScoredWindows]:
    """Score windows by models of the same trunk, pooled once."""
    pooled = models[0].pool(photo, windows)
    return [one.score_pooled(pooled) for one in models]


def render_tables(result: dict[str, Any]) -> str:
    """Render the tables as markdown, the paper's numbers in brackets."""
    columns = list(result["mean_ap"])
    lines = [
        f"mAP in percent on {result['test']}, trained on {result['train']}; {result['backbone']}, "
        f"{result['weights']}; fc6 and fc7 start from {result['fc_start']} weights. In brackets "
        "the paper's, on all of VOC 2007.",
        "",
        f"| | {' | '.join(columns)} |",
        "| --- |" + " --- |" * len(columns),
    ]
    if result["train_from"]:
        lines[0] += (
            f" Fine-tuning reaches down to {result['train_from']} in SPP-net's columns, to fc6 in "
            "R-CNN's."
        )
    if result["mirrored"] and RCNN in columns:
        lines[0] += (
            " Fine-tuning mirrors half of the photographs in SPP-net's columns, none in R-CNN's, "
            "whose mirrored crops would each be a pass of the trunk more."
        )
    if RCNN in columns:
        lines[0] += (
            f" R-CNN was trained on the first {result['rcnn_windows']} windows of a photograph, "
            f"SPP-net on the first {result['max_windows']}; both are measured on these."
        )
    rows = (*published.ROWS, VOTE) if result["vote"] else published.ROWS
    for row in rows:
        cells = [_render_cell(result["mean_ap"][c][row], row, c) for c in columns]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    lines += ["", *_render_seconds(result["seconds"])]
    return "\n".join(lines) + "\n"


def _render_cell(ours: float, row: str, column: str) -> str:
    text = "–" if math.isnan(ours) else f"{100 * ours:.1f}"
    if row not in published.ROWS:
        return text
    return f"{text} ({published.MEAN_AP[row][published.COLUMNS.index(column)]:.1f})"


def _render_seconds(benchmark: dict[str, Any]) -> list[str]:
    """The paper's table 10: conv, fc, total without proposals, speed-up."""
    names = list(benchmark["contenders"])
    lines = [
        f"Median seconds a photograph on {benchmark['device']}, proposals excluded.",
        "",
        f"| | {' | '.join(names)} |",
        "| --- |" + " --- |" * len(names),
    ]
    for stage in ("conv", "pooling", "fc"):
        medians = [benchmark["contenders"][n]["stages"][stage]["median"] for n in names]
        lines.append(f"| {stage} | {' | '.join(f'{m:.3f}' for m in medians)} |")
    totals = [benchmark["contenders"][n]["paper"]["median"] for n in names]
    lines.append(f"| total | {' | '.join(f'{t:.3f}' for t in totals)} |")
    ratios = [
        benchmark["speedup"][n]["paper"]["median"] if n in benchmark["speedup"] else 1.0
        for n in names
    ]
    papers = published.SECONDS["speed-up"]
    cells = [f"{ours:.1f}× ({theirs:.0f}×)" for ours, theirs in zip(ratios, papers, strict=True)]
    return [*lines, f"| speed-up | {' | '.join(cells)} |"]
