"""A training run: its stages in order, each of which an interrupted run takes up again.

windows → components → fc start → fine-tuning → maps → feature scale → SVMs → box regression →
calibration → model folder (paper, section 4.1); fc layers and fine-tuning only where they are asked
for. Where a softmax scores the windows, nothing comes between the fine-tuning and the model folder.
"""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data import LabelledSet, select_classes
from proposals import BoxesFile, ProposalCache
from spp_detect.backbones import Backbone, split_backbone
from spp_detect.calibration import Calibration
from spp_detect.config import RunConfig, TrainingConfig, count_photographs, to_mapping
from spp_detect.detector import Detector, make_proposal_settings
from spp_detect.extractors import make_extractor
from spp_detect.fc import FC_DEPTH, FcLayers
from spp_detect.files import remove_leftovers, write_json, write_tensors
from spp_detect.heads import Heads
from spp_detect.prefetch import WindowSource, read_windows, search_windows
from spp_detect.report.runs import write_training_page
from spp_detect.spp import SppExtractor
from spp_detect.trained_on import record_photographs
from spp_detect.training.calibrate import Calibrate, hold_out
from spp_detect.training.components import Components, FindComponents
from spp_detect.training.fc_start import FcStart
from spp_detect.training.feature_cache import (
    FeatureCache,
    FillCache,
    MapCache,
    Resources,
    open_cache,
)
from spp_detect.training.feature_scale import MeasureScales
from spp_detect.training.finetuning import (
    HISTORY,
    STEM_MAPS,
    WINDOW_COMPONENTS,
    FineTune,
    FineTuner,
)
from spp_detect.training.last_layers import LastLayers
from spp_detect.training.regression import FitRegression
from spp_detect.training.run_folder import (
    TrainingError,
    check_identity,
    fingerprint_boxes,
    fingerprint_dataset,
    fingerprint_weights,
    measure_run,
    proposal_folder,
    read_json,
    read_tensors,
)
from spp_detect.training.sampling import PhotographSampler, Sampler, WindowSampler
from spp_detect.training.stage import Result, Stage, do_stage
from spp_detect.training.svms import APART, TrainSvms
from spp_detect.training.team import Team
from spp_detect.training.tuned_trunks import (
    ComponentTrunk,
    FrozenTrunk,
    LearningTrunk,
    TunedTrunk,
)
from spp_detect.training.windows import Proposals, WindowTable
from spp_detect.workers import Workers

logger = logging.getLogger(__name__)

OWN_FC = "the net's own"  # what fc layers start from where the trunk's net had them


@dataclass(frozen=True)
class SharedFiles:
    """What runs of the same data and trunk share; None for what is a run's own.

    Attributes
    ----------
    proposals : Path, optional
        Folder of cached windows.
    maps : Path, optional
        Folder of maps, which whoever made it removes.
    tuned : Path, optional
        Layers that another run tuned.
    """

    proposals: Path | None = None
    maps: Path | None = None
    tuned: Path | None = None


class TrainingRun:
    """One training run in its folder, which becomes the model folder.

    Parameters
    ----------
    folder : Path
        Of the run.
    dataset : LabelledSet
        Labelled photographs.
    config : RunConfig
        The constants.
    backbone : Backbone
        The trunk with its weights.
    resources : Resources
        Device, disk, largest photograph.
    boxes : BoxesFile, optional
        Windows from a file instead of the configured method's.
    fc_weights : dict of torch.Tensor, optional
        fc6 and fc7 of the net that the trunk comes from, where it had them.
    shared : SharedFiles, optional
        What it shares with other runs.
    options : dict, optional
        What the run was asked for, kept for whoever goes on with it.
    team : Team, optional
        The processes that fine-tune together; the first trains, the others help.
    workers : Workers, optional
        Who does what falls into photographs or classes; this process alone if not given.
    """

    def __init__(
        self,
        folder: Path,
        dataset: LabelledSet,
        config: RunConfig,
        backbone: Backbone,
        resources: Resources,
        *,
        boxes: BoxesFile | None = None,
        fc_weights: dict[str, torch.Tensor] | None = None,
        shared: SharedFiles | None = None,
        options: dict[str, Any] | None = None,
        team: Team | None = None,
        workers: Workers | None = None,
    ) -> None:
        check_positives(dataset)
        self.team = team or Team(device=resources.device)
        check_team(config.training, self.team)
        self.workers = workers or Workers()
        # A wrong layer is told before anything starts.
        self.stem, self.tail = split_backbone(backbone, config.training.train_from)
        self.folder = folder
        self.work = folder / "work"
        self.dataset = dataset
        self.config = config
        self.resources = resources
        self.boxes = boxes
        self.shared = shared or SharedFiles()
        self.options = options or {}
        self.based_on = ""  # a hash of the model whose features are used, where there is one
        self.extractor = make_extractor(backbone, config.model, resources.device)
        self.fc_layers, self.fc_start = self._build_fc(fc_weights)
        self.last = self._build_last()
        self.calibration: Calibration | None = None
        seed = config.model.seed
        self.order: list[int] = np.random.default_rng(seed).permutation(len(dataset)).tolist()

    def train(self) -> Detector:
        """Do every stage that is not done yet and save the model."""
        self.begin()
        if not self.config.training.finetune_iterations or self._find_tuned().is_file():
            self.team.tell(False)  # nobody is to wait
        table = self.propose()
        cache = self.open_cache(table)
        self.prepare_fc(table, cache)
        heads = self._take_heads() or self._train_heads(cache)
        detector = self._make_detector(heads)
        self._finish(detector, table)
        return detector

    def help(self) -> None:
        """Fine-tune along with the process that trains, from the files that it has left so far."""
        self.fc_start = read_fc_start(self.folder)
        table = self._make_proposals().load()
        check_identity(self.work / "windows.json", {"windows": table.sha256}, "the run was")
        cache = self.open_cache(table)
        stage = self._make_components(cache)
        self.make_tuner(table, cache, stage.load() if stage else None).tune()

    def _take_heads(self) -> Heads | None:
        """Take what was tuned on top of the fc layers, where it scores and moves windows itself."""
        if self.last is None or self.config.model.scores != "softmax":
            return None
        return self.last.make_heads()

    def _train_heads(self, cache: FeatureCache, *, calibrate: bool = True) -> Heads:
        """Do the stages of SVMs, ridge regression and, if asked for, calibration."""
        self._do(FillCache(cache, self.workers))
        fc = self._cut_fc()
        work, config = self.work, self.config
        held_out = self._hold_out() if calibrate else []
        workers = self.workers
        scales = self._do(MeasureScales(work, self.order, cache, fc, config, workers))
        svms = self._do(
            TrainSvms(
                work,
                self.dataset,
                self.order,
                cache,
                fc,
                config,
                scales.svm,
                held_out=held_out,
                keep_mirrored=self.shared.maps is not None,
                memory=self.resources.memory,
                workers=workers,
            )
        )
        given = cache, config, scales.pooled, workers
        regression = self._do(FitRegression(work, self.dataset, *given))
        if held_out:

            def make_detector() -> Detector:
                apart = read_tensors(work / APART)
                heads = Heads(apart["coef"], apart["intercept"], *regression)
                return self._make_detector(heads)

            stage = Calibrate(work, self.dataset, held_out, cache, make_detector)
            self.calibration = self._do(stage)
        return Heads(*svms, *regression)

    def _hold_out(self) -> list[int]:
        """Choose photographs that show what scores mean; none for R-CNN, each a pass a window."""
        return hold_out(self.order) if self.config.model.extractor == "spp" else []

    def _make_detector(self, heads: Heads) -> Detector:
        return Detector(
            self.config.model,
            self.dataset.classes,
            self.extractor,
            heads,
            self._cut_fc(),
            training=self.config.training,
            calibration=self.calibration,
        )

    def train_heads(self) -> Heads:
        """Do the stages that lead to SVMs and regressors, on fc layers as they are."""
        self.begin()
        return self._train_heads(self.open_cache(self.propose()), calibrate=False)

    def begin(self) -> None:
        """Write down what the run is made of, or check that an earlier start was of the same."""
        backbone = self.extractor.backbone
        identity: dict[str, Any] = {
            "config": to_mapping(self.config.model) | to_mapping(self.config.training),
            "classes": list(self.dataset.classes),
            "photographs": len(self.dataset),
            "data": fingerprint_dataset(self.dataset),
            "boxes": fingerprint_boxes(self.boxes),
            "trunk": fingerprint_weights(backbone),
        }
        if self.based_on:
            identity["based_on"] = self.based_on
        remove_leftovers(self.folder)
        path = self.folder / "run.json"
        if path.is_file():
            check_identity(path, identity, "the run was")
            self.fc_start = read_fc_start(self.folder)
        else:
            self._clear_work()
            write_tensors(self.work / "trunk.safetensors", backbone.layers.state_dict())
            if self.fc_layers is not None and self.fc_start == OWN_FC:
                # Whoever goes on has the trunk's file only, without the net's fc layers.
                write_tensors(self.work / "fc.safetensors", self.fc_layers.state_dict())
            write_json(path, identity | {"fc_start": self.fc_start, "options": self.options})

    def _clear_work(self) -> None:
        """Remove what is of another run, or of a start that was cut off; windows name theirs."""
        kept = proposal_folder(self.folder)
        for path in self.work.iterdir() if self.work.is_dir() else ():
            if path.is_dir() and path != kept:
                shutil.rmtree(path)
            elif path != kept:
                path.unlink()

    def propose(self) -> WindowTable:
        """Do the first stage: the table of windows."""
        table = self._do(self._make_proposals())
        # All later stages name windows by their rows, those of an earlier start, too.
        path, identity = self.work / "windows.json", {"windows": table.sha256}
        if path.is_file():
            check_identity(path, identity, "the run was")
        else:
            write_json(path, identity)
        return table

    def _make_proposals(self) -> Proposals:
        return Proposals(
            self.work,
            self.dataset,
            self._find_source(),
            self.resources.max_side,
            difficult=self.config.training.difficult_negatives,
            workers=self.workers,
        )

    def open_cache(self, table: WindowTable) -> FeatureCache:
        """Open the cache of the trunk's maps, or crops' features."""
        folder = self.shared.maps or self.work / "maps"
        return open_cache(folder, self.dataset, table, self.resources, self.extractor)

    def prepare_fc(self, table: WindowTable, cache: FeatureCache) -> None:
        """Do the stages of what learns before the SVMs: the fc layers' start, the fine-tuning."""
        fc = self.fc_layers
        if fc is None:
            return
        tuned = self._find_tuned()
        components = None
        if not tuned.is_file():
            components = self.find_components(cache)
            if self.config.has_fc:
                self._do(FcStart(self.work, components, fc, self.config))
        if self.config.training.finetune_iterations:
            make_tuner = partial(self.make_tuner, table, cache, components)
            assert self.last is not None
            layers = fc, self.last, self.tail
            self._do(FineTune(make_tuner, *layers, self.extractor, tuned, self.folder))

    def _find_tuned(self) -> Path:
        return self.shared.tuned or self.work / "tuned.safetensors"

    def make_tuner(
        self, table: WindowTable, cache: FeatureCache, components: Components | None = None
    ) -> FineTuner:
        """Make what fine-tunes: on the trunk's maps, or on those of its layers that stay.

        Where fc6 learns in the space of components, these are given.
        """
        assert self.fc_layers is not None
        assert self.last is not None
        sampler = self._make_sampler(table, cache)
        trunk = self._make_tuned_trunk(table, cache, sampler, components)
        device = self.resources.device
        layers = self.fc_layers, self.last
        return FineTuner(trunk, *layers, sampler, self.config, device, self.work, self.team)

    def _make_sampler(self, table: WindowTable, cache: FeatureCache) -> Sampler:
        training = self.config.training
        # A mirrored crop would cost R-CNN a pass of its own.
        mirrors = training.mirror_finetuning and cache.mirrors
        few = self._learns_in_components
        any_photograph = training.finetune_sampling == "windows" and not training.train_from
        sampler = WindowSampler if any_photograph else PhotographSampler
        return sampler(self.dataset, table, self.config, mirrors=mirrors, few=few)

    def _make_tuned_trunk(
        self,
        table: WindowTable,
        cache: FeatureCache,
        sampler: Sampler,
        components: Components | None,
    ) -> TunedTrunk:
        model, device = self.config.model, self.resources.device
        if len(self.tail):
            stem = SppExtractor(self.stem, model, device)
            whole = SppExtractor(self.extractor.backbone, model, device)
            folder = self.work / STEM_MAPS
            stem_cache = MapCache(folder, self.dataset, table, self.resources, stem)
            return LearningTrunk(stem_cache, self.tail, whole)
        if not self._learns_in_components:
            return FrozenTrunk(cache)
        assert components is not None
        space = components.cut(self.config.training.finetune_components)
        return ComponentTrunk(cache, space, self.work / WINDOW_COMPONENTS, sampler, self.config)

    @property
    def _learns_in_components(self) -> bool:
        return self.config.training.finetune_components > 0 and not len(self.tail)

    def find_components(self, cache: FeatureCache) -> Components | None:
        """Do the stage of the components, if anything asks for them."""
        stage = self._make_components(cache)
        return self._do(stage) if stage else None

    def _make_components(self, cache: FeatureCache) -> FindComponents | None:
        if self.fc_start != "components" and not self._learns_in_components:
            return None
        return FindComponents(self.work, self.order, cache, self.config)

    def _finish(self, detector: Detector, table: WindowTable) -> None:
        detector.save(self.folder)
        what = {"fc_start": self.fc_start, "windows_sha256": table.sha256}
        record_photographs(self.dataset, self.folder)
        numbers = measure_run(self.folder, len(self.dataset))
        self._write_page(numbers)
        write_json(self.folder / "metrics.json", what | numbers)  # it marks a finished run
        self.remove_maps()

    def remove_maps(self) -> None:
        """Remove the maps, which only training needs."""
        shutil.rmtree(self.work / "maps", ignore_errors=True)

    def _write_page(self, numbers: dict[str, Any]) -> None:
        counts = np.bincount(
            np.concatenate([photograph.labels.easy.classes for photograph in self.dataset]),
            minlength=len(self.dataset.classes),
        )
        boxes = dict(zip(self.dataset.classes, counts.tolist(), strict=True))
        constants = to_mapping(self.config.model) | to_mapping(self.config.training)
        tuned = self.folder / HISTORY
        history = read_json(tuned) if tuned.is_file() else []
        write_training_page(self.folder, numbers, boxes, constants, history)

    def _do(self, stage: Stage[Result]) -> Result:
        return do_stage(stage, self.folder)

    def _find_source(self) -> WindowSource:
        """Where windows come from; proposed ones are cached by photograph and settings."""
        model = self.config.model
        if self.boxes is not None:
            return read_windows(self.boxes, model.max_windows)
        cache = ProposalCache(self.shared.proposals or proposal_folder(self.folder))
        return search_windows(make_proposal_settings(model), cache)

    def _build_fc(
        self, trained: dict[str, torch.Tensor] | None
    ) -> tuple[FcLayers | None, str | None]:
        """Build fc6 and fc7, where they are needed, and say from what they start.

        Where the trunk learns without them, pooled features go through.
        """
        model = self.config.model
        if not self.config.has_fc:
            tuned = self.config.training.finetune_iterations > 0
            return (FcLayers(self.extractor.length, 0, 0).eval() if tuned else None), None
        torch.manual_seed(model.seed)
        fc_layers = FcLayers(self.extractor.length, model.fc_width, 2).eval()
        channels = self.extractor.backbone.channels
        # A net's own fc6 takes the window alone, whose values must come first.
        alone = model.parts[0] == "window"
        fits = (
            alone and trained is not None and fc_layers.start_from(trained, channels, model.levels)
        )
        start = OWN_FC if fits else self.config.training.fc_start
        return fc_layers.to(self.resources.device), start

    def _build_last(self) -> LastLayers | None:
        """Build what is tuned on top of the fc layers, or of pooled features."""
        if self.fc_layers is None or not self.config.training.finetune_iterations:
            return None
        torch.manual_seed(self.config.model.seed)
        classes = len(self.dataset.classes)
        last = LastLayers(self.fc_layers.length, classes, self.config.training)
        return last.to(self.resources.device)

    def _cut_fc(self) -> FcLayers | None:
        """As many of the fc layers, which are shared, as the SVMs need."""
        depth = FC_DEPTH[self.config.model.feature]
        return self.fc_layers.cut(depth).eval() if self.fc_layers is not None and depth else None


def read_fc_start(folder: Path) -> str | None:
    """Read what a run's fc layers started from, where it has any."""
    start: str | None = json.loads((folder / "run.json").read_text(encoding="utf-8"))["fc_start"]
    return start


def check_team(training: TrainingConfig, team: Team) -> None:
    """Raise TrainingError for more processes than a batch of fine-tuning has photographs."""
    most = count_photographs(training)
    few = training.train_from or training.finetune_sampling == "photographs"
    if training.finetune_iterations and few and team.size > most:
        raise TrainingError(
            f"fine-tuning: {team.size} processes; expected at most {most}, as many as a batch has "
            "photographs"
        )


def check_positives(dataset: LabelledSet) -> None:
    """Raise TrainingError for a class of which no box can serve as a positive."""
    for name in find_without_positives(dataset):
        raise TrainingError(
            f"{dataset.root}: split {dataset.split} has no box of class {name!r} "
            "that is not difficult; expected at least one"
        )


def leave_out_without_positives(dataset: LabelledSet) -> LabelledSet:
    """Leave out the classes of which no box can serve as a positive, and say so."""
    lacking = find_without_positives(dataset)
    kept = [name for name in dataset.classes if name not in lacking]
    if not lacking or not kept:
        return dataset
    logger.warning(
        "%s: left out, as no box of theirs can be learnt from: %s", dataset.root, ", ".join(lacking)
    )
    return select_classes(dataset, kept)


def find_without_positives(dataset: LabelledSet) -> list[str]:
    """Find the classes of which no box can serve as a positive."""
    found = {c for photograph in dataset for c in photograph.labels.easy.classes.tolist()}
    return [name for c, name in enumerate(dataset.classes) if c not in found]
