"""The stages of a training run, each of which an interrupted run takes up again.

windows → fc start → fine-tuning → maps → feature scale → SVMs → box regression → model folder
(paper, section 4.1); fc layers and fine-tuning only where they are asked for.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from bbox_regression import BoxRegressor
from data import DEFAULT_MAX_SIDE, LabelledSet
from proposals import BoxesFile, ProposalCache
from spp_detect.backbones import Backbone, split_backbone
from spp_detect.config import Config, to_mapping
from spp_detect.detector import Detector, make_proposal_settings
from spp_detect.extractors import make_extractor
from spp_detect.fc import FC_DEPTH, FcLayers
from spp_detect.features import Extractor, FeatureExtractor
from spp_detect.files import remove_leftovers, write_json, write_tensors
from spp_detect.postprocess import Heads
from spp_detect.prefetch import prepare_photos, read_windows, search_windows
from spp_detect.progress import track
from spp_detect.rcnn import RcnnExtractor
from spp_detect.training.crops import CropStore
from spp_detect.training.finetuning import FineTuner
from spp_detect.training.maps import MapStore
from spp_detect.training.run_folder import (
    Stage,
    TrainingError,
    check_identity,
    fingerprint_dataset,
    fingerprint_weights,
    measure_run,
    proposal_folder,
)
from spp_detect.training.targets import find_negatives, mirror_windows, select_regression_pairs
from svm import HardNegativeMiner, LinearSvm, MinerState

CHECKPOINT_EVERY = 100  # photographs between two saved states of the mining
COMPONENT_WINDOWS = 12_000  # of which principal components are found; they bound their number
WINDOW_BITS = 24  # a window's key is its photograph's number and, in these bits, its own


@dataclass(frozen=True)
class Resources:
    """What a run may use.

    Attributes
    ----------
    device : where maps are computed and windows pooled.
    map_budget : bytes of maps kept on disk.
    max_side : largest side of a photograph in pixels.
    """

    device: torch.device
    map_budget: int = 8_000_000_000
    max_side: int = DEFAULT_MAX_SIDE


class TrainingRun:
    """One training run in its folder: settings first, then stage after stage.

    Parameters
    ----------
    folder : the run's folder; it becomes the model folder.
    dataset : labelled photographs.
    config : the constants.
    backbone : the trunk with its weights.
    resources : device, disk, largest photograph.
    boxes : windows from a file instead of the configured method's.
    fc_weights : fc6 and fc7 of the net that the trunk comes from, where it had them.
    proposals : folder of cached windows; the run's own if None.
    maps : folder of maps that runs of the same trunk, scales and data share, and whoever made it
        removes; the run's own if None.
    options : what the run was asked for, kept for whoever goes on with it.
    """

    def __init__(
        self,
        folder: Path,
        dataset: LabelledSet,
        config: Config,
        backbone: Backbone,
        resources: Resources,
        boxes: BoxesFile | None = None,
        fc_weights: dict[str, torch.Tensor] | None = None,
        proposals: Path | None = None,
        maps: Path | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        check_positives(dataset)
        if config.fc_rank:
            raise TrainingError(f"fc_rank {config.fc_rank}: expected 0, it is for trained models")
        split_backbone(backbone, config.train_from)  # a wrong layer is told before anything starts
        self.folder = folder
        self.work = folder / "work"
        self.dataset = dataset
        self.config = config
        self.resources = resources
        self.boxes = boxes
        self.proposals = proposals or proposal_folder(folder)
        self.options = options or {}
        extractor = make_extractor(backbone, config, resources.device)
        self.extractor: Extractor = extractor
        self.windows: list[NDArray[np.float32]] = []
        self.fc_layers, self.fc_start = self._build_fc(fc_weights)
        self.fc = self._cut_fc()
        self.shared = maps is not None
        self.maps = self._open_maps(maps or self.work / "maps", extractor)
        self.order = np.random.default_rng(config.seed).permutation(len(dataset))

    def train(self) -> Detector:
        """Do every stage that is not done yet and save the model."""
        self._begin()
        with self._stage("proposals"):
            self.windows = self.propose_windows()
        if self.fc_layers is not None:
            with self._stage("fc start"):
                self.start_fc(self.fc_layers)
        if self.config.finetune_iterations:
            with self._stage("fine-tuning"):
                self.tune()
        with self._stage("maps"):
            self.compute_maps()
        with self._stage("feature scale"):
            pooled_scale, svm_scale = self.measure_feature_scales()
        with self._stage("svms"):
            svms = self.train_svms(svm_scale)
        with self._stage("box regression"):
            regression = self.fit_regression(pooled_scale)
        heads = Heads(*svms, *regression)
        detector = Detector(self.config, self.dataset.classes, self.extractor, heads, self.fc)
        detector.save(self.folder)
        write_json(
            self.folder / "metrics.json",
            {"fc_start": self.fc_start} | measure_run(self.folder, len(self.dataset)),
        )
        shutil.rmtree(self.work / "maps", ignore_errors=True)
        return detector

    def propose_windows(self) -> list[NDArray[np.float32]]:
        """Propose windows in every photograph; they are cached by photograph and settings."""
        if self.boxes is None:
            cache = ProposalCache(self.proposals)
            source = search_windows(make_proposal_settings(self.config), cache)
        else:
            source = read_windows(self.boxes, self.config.max_windows)
        paths = [photograph.path for photograph in self.dataset]
        prepared = prepare_photos(paths, source, self.resources.max_side)
        windows = []
        for _, one in track(prepared, "proposals", len(paths)):
            if isinstance(one, Exception):
                raise one
            windows.append(one[1])
        return windows

    def start_fc(self, fc_layers: FcLayers) -> None:
        """Start the fc layers from principal components of pooled features, or as configured."""
        path = self.work / "fc.safetensors"
        tuned = self.work / "tuned.safetensors"
        if not path.is_file() and not tuned.is_file():
            if self.fc_start == "components":
                most = min(COMPONENT_WINDOWS, self.config.fc_width // 2)
                fc_layers.start_from_components(*self._find_components(most))
            write_tensors(path, fc_layers.state_dict())
        if path.is_file():
            fc_layers.load_state_dict(load_file(path))

    def tune(self) -> None:
        """Fine-tune the fc layers and the trunk's last layers, or load what was tuned."""
        done = self.work / "tuned.safetensors"
        tuner = self.make_tuner()
        tuned = nn.ModuleDict({"tail": tuner.tail, "fc": tuner.fc})
        if not done.is_file():
            self._fill(tuner.store, mirrored=tuner.mirrors)
            history = tuner.tune()
            write_json(self.folder / "finetuning.json", tabulate(history))
            write_tensors(done, tuned.state_dict())
        tuned.load_state_dict(load_file(done))
        tuner.forget()
        shutil.rmtree(self.work / "stem_maps", ignore_errors=True)

    def make_tuner(self) -> FineTuner:
        """Make what fine-tunes: on the trunk's maps, or on those of its layers that stay."""
        assert self.fc_layers is not None
        stem, tail = split_backbone(self.extractor.backbone, self.config.train_from)
        store = self.maps
        if len(tail):
            extractor = make_extractor(stem, self.config, self.resources.device)
            store = self._open_maps(self.work / "stem_maps", extractor)
        return FineTuner(
            self.dataset,
            self.windows,
            self.extractor,
            store,
            tail,
            self.fc_layers,
            self.config,
            self.work,
        )

    def compute_maps(self) -> None:
        """Compute every photograph's maps, or crops' features, until the budget is full."""
        self._fill(self.maps)
        if self.maps.full:
            # Those of mirror images, from the fine-tuning, are read once more, these often.
            self.maps.remove_mirrored()
            self._fill(self.maps)

    def measure_feature_scales(self) -> tuple[float, float]:
        """Measure 20 / mean L2 norm over random windows of random photographs.

        Returns
        -------
        The factor of pooled features, and that of what the SVMs take.
        """
        path = self.work / "feature_scale.json"
        if path.is_file():
            scales = json.loads(path.read_text(encoding="utf-8"))
            return float(scales["pooled"]), float(scales["svm"])
        random = np.random.default_rng(self.config.seed)
        norms = []
        for i in track(self.order[: self.config.norm_photographs].tolist(), "feature scale"):
            windows = self.windows[i]
            count = min(self.config.norm_windows, len(windows))
            sample = windows[random.permutation(len(windows))[:count]]
            pooled = self.extractor.pool(self.maps.get(i), sample)
            norms.append(
                [
                    features.float().norm(dim=1)[pooled.inverse].mean().item()
                    for features in (pooled.features, self._describe(pooled.features))
                ]
            )
        pooled_scale, svm_scale = (self.config.feature_norm / np.mean(norms, axis=0)).tolist()
        write_json(path, {"pooled": pooled_scale, "svm": svm_scale})
        return pooled_scale, svm_scale

    def train_svms(self, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Train every class's SVM with hard negatives, in one pass over the photographs."""
        done = self.work / "svms.safetensors"
        if done.is_file():
            tensors = load_file(done)
            return tensors["coef"], tensors["intercept"]
        config = self.config
        svm = LinearSvm(
            config.svm_c,
            config.positive_weight,
            config.bias_multiplier,
            config.svm_tolerance,
            config.seed,
        )
        miner = HardNegativeMiner(
            self._pool_positives(),
            self._fetch,
            svm,
            scale,
            config.hard_score,
            config.evict_score,
            config.retrain_after,
        )
        checkpoint = self.work / "mining.safetensors"
        start = self._restore_mining(checkpoint, miner)
        for step in track(range(start, len(self.order)), "hard negatives"):
            self._mine_photograph(miner, int(self.order[step]))
            if (step + 1) % CHECKPOINT_EVERY == 0:
                _save_mining(checkpoint, miner, step + 1)
        miner.finish()
        coef, intercept = torch.from_numpy(miner.coef), torch.from_numpy(miner.intercept)
        write_tensors(done, {"coef": coef, "intercept": intercept})
        return coef, intercept

    def fit_regression(self, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Fit every class's box regressor to the windows that overlap its boxes enough."""
        fitted = [
            self._fit_class(c, scale)
            for c in track(range(len(self.dataset.classes)), "box regression")
        ]
        coefs, intercepts = zip(*fitted, strict=True)
        return torch.stack(coefs), torch.stack(intercepts)

    def _build_fc(
        self, trained: dict[str, torch.Tensor] | None
    ) -> tuple[FcLayers | None, str | None]:
        """Build fc6 and fc7, where they are needed, and say from what they start."""
        if self.config.feature == "pool5" and not self.config.finetune_iterations:
            return None, None
        torch.manual_seed(self.config.seed)
        fc_layers = FcLayers(self.extractor.length, self.config.fc_width, 2).eval()
        channels, levels = self.extractor.backbone.channels, self.config.levels
        fits = trained is not None and fc_layers.start_from(trained, channels, levels)
        return fc_layers.to(
            self.resources.device
        ), "the net's own" if fits else self.config.fc_start

    def _cut_fc(self) -> FcLayers | None:
        """As many of the fc layers, which are shared, as describe a window."""
        depth = FC_DEPTH[self.config.feature]
        return self.fc_layers.cut(depth).eval() if self.fc_layers is not None and depth else None

    def _find_components(self, most: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Find principal components of random windows' pooled features.

        Returns
        -------
        At most `most` components, the features' mean, and the factor that gives the components a
        mean L2 norm of feature_norm.
        """
        random = np.random.default_rng(self.config.seed)
        each = -(-COMPONENT_WINDOWS // len(self.order))
        rows = []
        for i in track(self.order.tolist(), "principal components"):
            windows = self.windows[i]
            sample = windows[random.permutation(len(windows))[:each]]
            # Maps of a trunk that will be tuned are of no use later.
            maps = self.maps.compute(i) if self.config.train_from else self.maps.get(i)
            pooled = self.extractor.pool(maps, sample)
            rows.append(pooled.features[pooled.inverse].float())
            if sum(map(len, rows)) >= COMPONENT_WINDOWS:
                break
        features = torch.cat(rows)
        mean = features.mean(dim=0)
        torch.manual_seed(self.config.seed)
        count = min(most, *features.shape)
        _, _, components = torch.svd_lowrank(features.sub_(mean), min(count + 64, *features.shape))
        scale = self.config.feature_norm / features.norm(dim=1).mean().item()
        return components.T[:count].contiguous(), mean, scale

    def _describe(self, features: torch.Tensor) -> torch.Tensor:
        """Apply the fc layers, where there are any: what the SVMs take."""
        return features if self.fc is None else self.fc.describe(features, self.config.precision)

    def _open_maps(
        self, folder: Path, extractor: FeatureExtractor | RcnnExtractor
    ) -> MapStore | CropStore:
        most, side = self.resources.map_budget, self.resources.max_side
        if isinstance(extractor, RcnnExtractor):
            windows = self._labelled_windows
            return CropStore(folder, self.dataset, extractor, most, side, windows)
        return MapStore(folder, self.dataset, extractor, most, side)

    def _fill(self, store: MapStore | CropStore, *, mirrored: bool = False) -> None:
        """Compute maps until the budget is full, those of the mirror images too if asked for."""
        for i in track(range(len(self.dataset)), "maps"):
            for flip in (False, True)[: 1 + mirrored]:
                if not store.full:
                    store.get(i, mirrored=flip)

    def _begin(self) -> None:
        """Write down what the run is made of, or check that an earlier start was of the same."""
        backbone = self.extractor.backbone
        identity = {
            "config": to_mapping(self.config),
            "classes": list(self.dataset.classes),
            "photographs": len(self.dataset),
            "data": fingerprint_dataset(self.dataset),
            "trunk": fingerprint_weights(backbone),
        }
        remove_leftovers(self.folder)
        path = self.folder / "run.json"
        if path.is_file():
            check_identity(path, identity, "the run was")
        else:
            write_tensors(self.work / "trunk.safetensors", backbone.layers.state_dict())
            if self.fc_layers is not None and self.fc_start == "the net's own":
                # Whoever goes on has the trunk's file only, without the net's fc layers.
                write_tensors(self.work / "fc.safetensors", self.fc_layers.state_dict())
            write_json(path, identity | {"options": self.options})

    def _fit_class(self, c: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
        done = self.work / f"regression-{c:03d}.safetensors"
        if done.is_file():
            tensors = load_file(done)
            return tensors["coef"], tensors["intercept"]
        regressor = BoxRegressor(self.config.regression_lambda)
        for i, photograph in enumerate(self.dataset):
            windows, boxes = select_regression_pairs(
                photograph, self.windows[i], c, self.config.regression_iou
            )
            if len(windows):
                pooled = self.extractor.pool(self.maps.get(i), windows)
                features = pooled.features[pooled.inverse].float().cpu().numpy()
                regressor.partial_fit(features * np.float32(scale), windows, boxes)
        regressor.solve()
        coef = torch.from_numpy(regressor.coef_ * np.float32(scale))
        intercept = torch.from_numpy(regressor.intercept_)
        write_tensors(done, {"coef": coef, "intercept": intercept})
        return coef, intercept

    def _pool_positives(self) -> list[NDArray[np.float16]]:
        """Pool the boxes of each class that are not difficult: per class float16 (P, D).

        Mirrored, they are so many positives more, for one more pass of the convolutions.
        """
        rows: list[list[NDArray[np.float16]]] = [[] for _ in self.dataset.classes]
        for i, photograph in enumerate(track(self.dataset, "positives", len(self.dataset))):
            easy = photograph.labels.easy
            if not len(easy):
                continue
            views = [(self.maps.get(i), easy.boxes)]
            if self.config.mirror_positives:
                mirrored = mirror_windows(easy.boxes, photograph.width)
                views.append((self.maps.get(i, mirrored=True, keep=self.shared), mirrored))
            for maps, boxes in views:
                pooled = self.extractor.pool(maps, boxes)
                described = self._describe(pooled.features)
                features = described[pooled.inverse].half().cpu().numpy()
                for c in np.unique(easy.classes):
                    rows[c].append(features[easy.classes == c])
        return [np.concatenate(parts) for parts in rows]

    def _mine_photograph(self, miner: HardNegativeMiner, i: int) -> None:
        photograph = self.dataset.photographs[i]
        windows = self._labelled_windows(i)
        pooled = self.extractor.pool(self.maps.get(i), windows)
        negative = find_negatives(
            photograph,
            windows[pooled.first],
            len(self.dataset.classes),
            self.config.negative_iou,
            self.config.negative_overlap,
        )
        keys = (np.int64(i) << WINDOW_BITS) + pooled.first
        miner.mine(self._describe(pooled.features).float().cpu().numpy(), negative, keys)

    def _labelled_windows(self, i: int) -> NDArray[np.float32]:
        """The boxes of a photograph, then its proposals: boxes are negatives of other classes."""
        return np.concatenate([self.dataset.photographs[i].labels.easy.boxes, self.windows[i]])

    def _restore_mining(self, checkpoint: Path, miner: HardNegativeMiner) -> int:
        """Take up the mining where its last saved state stands: the next step."""
        if not checkpoint.is_file():
            return 0
        tensors = {name: tensor.numpy() for name, tensor in load_file(checkpoint).items()}
        step = int(tensors.pop("step")[0])
        miner.restore(MinerState(**tensors))
        return step

    def _fetch(self, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Pool windows of increasing keys again, rounded as the positives are, into (M, D)."""
        photographs, starts = np.unique(keys >> WINDOW_BITS, return_index=True)
        parts = zip(np.split(keys, starts[1:]), np.split(rows, starts[1:]), strict=True)
        for i, (chosen, out) in zip(photographs.tolist(), parts, strict=True):
            windows = self._labelled_windows(i)[chosen & ((1 << WINDOW_BITS) - 1)]
            pooled = self.extractor.pool(self.maps.get(i), windows)
            described = self._describe(pooled.features)[pooled.inverse]
            torch.from_numpy(out).copy_(described.half())

    def _stage(self, name: str) -> Stage:
        return Stage(self.folder, name)


def check_positives(dataset: LabelledSet) -> None:
    """Raise TrainingError for a class of which no box can serve as a positive."""
    counts = np.zeros(len(dataset.classes), int)
    for photograph in dataset:
        np.add.at(counts, photograph.labels.easy.classes, 1)
    for c in np.flatnonzero(counts == 0):
        raise TrainingError(
            f"{dataset.root}: split {dataset.split} has no box of class {dataset.classes[c]!r} "
            "that is not difficult; expected at least one"
        )


def tabulate(history: NDArray[np.float64]) -> list[dict[str, float]]:
    """Name the columns of a fine-tuning's history."""
    names = ("iteration", "training_loss", "held_out_loss", "held_out_accuracy")
    return [dict(zip(names, row, strict=True)) for row in history.tolist()]


def _save_mining(path: Path, miner: HardNegativeMiner, step: int) -> None:
    state = {name: torch.from_numpy(array) for name, array in miner.state()._asdict().items()}
    write_tensors(path, state | {"step": torch.tensor([step])})
