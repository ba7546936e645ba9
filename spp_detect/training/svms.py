"""The SVMs of all classes, by one pass of hard negative mining (paper, section 4.1)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from data import LabelledSet
from spp_detect.config import RunConfig
from spp_detect.fc import FcLayers, apply_fc
from spp_detect.files import write_tensors
from spp_detect.progress import track
from spp_detect.threads import get_threads
from spp_detect.training.feature_cache import FeatureCache
from spp_detect.training.negatives import NegativesFile
from spp_detect.training.positives import Halves, PositivesFile
from spp_detect.training.run_folder import read_tensors
from spp_detect.training.stage import Stage
from spp_detect.training.targets import find_negatives
from spp_detect.training.windows import Rows, make_keys, photographs_of, split_keys
from spp_detect.workers import Workers
from svm import HardNegativeMiner, LinearSvm, MinerState, SomeRows, Table

APART = "svms_apart.safetensors"  # those that were trained without some photographs
CHECKPOINT_EVERY = 100  # photographs between two saved states of the mining
MOST_SIDE_BY_SIDE = 4  # classes trained at once: each holds about 0.5 GB of examples on VOC

PART = "mining-{}-of-{}"  # folder of a part of the classes, where several workers mine

Svms = tuple[torch.Tensor, torch.Tensor]  # weights (C, F) and intercepts (C,)
Arrays = tuple[NDArray[np.float32], NDArray[np.float32]]  # the same of some classes


class TrainSvms(Stage[Svms]):
    """Train every class's SVM with hard negatives.

    Parameters
    ----------
    work : Path
        The run's work folder.
    dataset : LabelledSet
        The photographs.
    photographs : list of int
        The order in which they are mined.
    cache : FeatureCache
        Pools windows.
    fc : FcLayers, optional
        Between pooled features and SVMs.
    config : RunConfig
        The constants.
    scale : float
        Factor on what the SVMs take.
    held_out : sequence of int
        Photographs without which SVMs are trained, too: on the negatives that were mined, at last.
    keep_mirrored : bool
        Whether maps of mirror images are written, for other runs to use.
    memory : int, optional
        Bytes of examples that SVMs are trained on at once; of more a part lies in `work`.
    workers : Workers, optional
        Who works: some photographs each while positives are pooled, then some classes each, of
        which each mines all photographs.
    """

    name = "svms"

    def __init__(
        self,
        work: Path,
        dataset: LabelledSet,
        photographs: list[int],
        cache: FeatureCache,
        fc: FcLayers | None,
        config: RunConfig,
        scale: float,
        *,
        held_out: Sequence[int] = (),
        keep_mirrored: bool = False,
        memory: int | None = None,
        workers: Workers | None = None,
    ) -> None:
        self.apart = work / APART
        self.leaves = (work / "svms.safetensors", *((self.apart,) if held_out else ()))
        self.held_out = held_out
        self.checkpoint = work / "mining.safetensors"
        self.positives = work / "positives.npy"
        self.negatives = NegativesFile(work, cache.extractor.length)
        # The photograph that is mined now, where its maps are not kept: index, rows, features.
        self._mined: tuple[int, Rows, torch.Tensor] | None = None
        self.dataset = dataset
        self.photographs = photographs
        self.cache = cache
        self.fc = fc
        self.config = config
        self.scale = scale
        self.keep_mirrored = keep_mirrored
        self.memory, self.work = memory, work
        self.workers = workers or Workers()
        self.own = np.ones(len(dataset.classes), bool)  # the classes that are mined for

    def run(self) -> None:
        """Pool the positives, mine the photographs, both from where an interrupted run stands."""
        self.pool_positives()
        count = self._count_parts()
        parts = [(number, count) for number in range(count)]
        trained = self.workers.map(self._train_parts, parts)
        if count > 1:  # else progress is told by photographs
            trained = track(trained, "hard negatives", count)
        for path, pieces in zip(self.leaves, zip(*trained, strict=True), strict=True):
            _write(path, *_join(pieces))

    def load(self) -> Svms:
        """Read the SVMs; what was only needed to train them goes."""
        self.positives.unlink(missing_ok=True)
        self.negatives.remove()
        for folder in self.work.glob(PART.format("*", "*")):
            shutil.rmtree(folder, ignore_errors=True)
        tensors = read_tensors(self.leaves[0])
        return tensors["coef"], tensors["intercept"]

    def pool_positives(self) -> list[Halves]:
        """Pool the boxes of each class that are not difficult: per class float16 (P, F).

        Mirrored, they are so many positives more, for one more pass of the convolutions. They lie
        in a file and are read from it where they are used.
        """
        each = [photograph.labels.easy.classes for photograph in self.dataset]
        counts = np.bincount(np.concatenate(each), minlength=len(self.dataset.classes))
        counts *= 1 + self.config.training.mirror_positives
        length = (self.fc or self.cache.extractor).length
        file = PositivesFile(self.positives, counts.tolist(), length)
        rows = file.read()
        if rows is None:
            numbers = range(len(self.dataset))
            pooled = track(self.workers.map(self._pool_each, numbers), "positives", len(numbers))
            file.write(piece for pieces in pooled for piece in pieces)
            rows = file.read()
            assert rows is not None
        return rows

    def fetch(self, keys: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Pool windows of increasing keys again, rounded as the positives are, into (M, D)."""
        start = 0
        for i, rows in split_keys(keys):
            described = self._apply_fc(self._find_features(i, rows))
            torch.from_numpy(out[start : start + len(rows)]).copy_(described.half())
            start += len(rows)

    def _count_parts(self) -> int:
        """Into how many parts classes are divided: as an earlier start did, if it mined."""
        if type(self.workers) is Workers:  # alone, it begins parts anew, all together
            return 1
        begun = self.work.glob(PART.format("*", "*"))
        counts = [int(folder.name.rpartition("-")[2]) for folder in begun]
        return max(counts, default=min(self.workers.count, len(self.dataset.classes)))

    def _train_parts(self, parts: Sequence[tuple[int, int]]) -> Iterator[list[Arrays]]:
        """Train parts of the classes, number and count: for each file its rows of each part."""
        for number, count in parts:
            part = self._take_part(number, count) if count > 1 else self
            miner = part._mine()
            svms = [(miner.coef, miner.intercept)]
            if self.held_out:
                svms.append(part._train_apart(miner))
            yield [(coef[part.own], intercept[part.own]) for coef, intercept in svms]

    def _take_part(self, number: int, count: int) -> TrainSvms:
        """Make of the stage that of every so many-th class only, with files of its own."""
        folder = self.work / PART.format(number, count)
        folder.mkdir(exist_ok=True)
        part = copy(self)
        part.own = np.arange(len(self.own)) % count == number
        part.checkpoint = folder / self.checkpoint.name
        part.negatives = NegativesFile(folder, self.negatives.length)
        return part

    def _train_apart(self, miner: HardNegativeMiner) -> Arrays:
        """Train SVMs without what was taken from the photographs that are held out.

        A class of which nothing else is left keeps its own: weights (C, F), intercepts (C,).
        """
        classes = np.flatnonzero(self.own).tolist()
        kept = [~np.isin(owners, self.held_out) for owners in self._find_owners()]
        state = miner.state()
        held = np.split(state.keys, np.cumsum(state.counts)[:-1])
        others = [keys[~np.isin(photographs_of(keys), self.held_out)] for keys in held]
        able = [c for c in classes if kept[c].any() and len(others[c])]
        if not able:
            return state.coef, state.intercept
        every = self.pool_positives()
        apart = self._make_miner([SomeRows(every[c], np.flatnonzero(kept[c])) for c in able])
        start = MinerState(
            state.coef[able],
            state.intercept[able],
            np.ones(len(able), bool),
            np.ones(len(able), np.int64),  # each is due
            np.concatenate([others[c] for c in able]),
            np.array([len(others[c]) for c in able]),
        )
        apart.restore(start).finish()
        state.coef[able], state.intercept[able] = apart.coef, apart.intercept
        return state.coef, state.intercept

    def _find_owners(self) -> list[NDArray[np.int64]]:
        """The photograph of each positive, by class, in the order of the file."""
        own: list[list[int]] = [[] for _ in self.dataset.classes]
        for i, photograph in enumerate(self.dataset):
            for c in photograph.labels.easy.classes.tolist():
                own[c] += [i] * (1 + self.config.training.mirror_positives)
        return [np.array(one, np.int64) for one in own]

    def _mine(self) -> HardNegativeMiner:
        """Mine all photographs."""
        miner = self._make_miner()
        # Of the other classes nothing is negative: their weights stay 0.
        miner.restore(miner.state()._replace(trained=~self.own))
        start = self._restore(miner)
        for step in track(range(start, len(self.photographs)), "hard negatives"):
            self._mine_photograph(miner, self.photographs[step])
            if (step + 1) % CHECKPOINT_EVERY == 0:
                self._save(miner, step + 1)
        miner.finish()
        return miner

    def _make_miner(self, positives: Sequence[Table] | None = None) -> HardNegativeMiner:
        training = self.config.training
        svm = LinearSvm(
            training.svm_c,
            training.positive_weight,
            training.bias_multiplier,
            training.svm_tolerance,
            self.config.model.seed,
        )
        if positives is None:
            positives = self.pool_positives()
        side_by_side = min(get_threads(), MOST_SIDE_BY_SIDE, len(self.own))
        # A class's share is one of these, however few classes this miner has.
        memory = self.memory and self.memory * min(side_by_side, len(positives)) // side_by_side
        return HardNegativeMiner(
            positives,
            self.fetch,
            svm,
            self.scale,
            training.hard_score,
            training.evict_score,
            training.retrain_after,
            side_by_side,
            memory,
            self.work,
        )

    def _pool_each(self, numbers: Sequence[int]) -> Iterator[list[tuple[int, Halves]]]:
        """Pool the true boxes of each photograph, class by class."""
        flips = (False, True)[: 1 + self.config.training.mirror_positives]
        for i in numbers:
            classes = self.dataset.photographs[i].labels.easy.classes
            pieces = []
            for mirrored in flips if len(classes) else ():
                features = self._pool_boxes(i, mirrored)
                pieces += [(c, features[classes == c]) for c in np.unique(classes).tolist()]
            yield pieces

    def _pool_boxes(self, index: int, mirrored: bool) -> Halves:
        """Features of a photograph's true boxes, rounded: float16 (n, F)."""
        keep = self.keep_mirrored or not mirrored
        rows = self.cache.table.find_boxes(index)
        pooled = self.cache.pool(index, rows, mirrored=mirrored, keep=keep)
        described = self._apply_fc(pooled.features)[pooled.inverse]
        features: Halves = described.half().cpu().numpy()
        return features

    def _mine_photograph(self, miner: HardNegativeMiner, index: int) -> None:
        """Mine all windows: true boxes are negatives of other classes."""
        rows = self.cache.table.find_rows(index)
        pooled = self.cache.pool(index, rows)
        negative = find_negatives(
            self.dataset.photographs[index],
            pooled.windows[pooled.first],
            len(self.dataset.classes),
            self.config.training.negative_iou,
            self.config.training.negative_overlap,
        )
        negative &= self.own
        distinct = rows[pooled.first]
        keys = make_keys(index, distinct)
        if not self.cache.has(index):
            self._mined = index, distinct, pooled.features
        miner.mine(self._apply_fc(pooled.features).float().cpu().numpy(), negative, keys)
        if self._mined is not None:
            held = miner.holds(keys)
            self.negatives.add(index, distinct[held], pooled.features[held].half().cpu().numpy())
            self._mined = None

    def _find_features(self, index: int, rows: Rows) -> torch.Tensor:
        """Find pooled windows of a photograph: kept ones, or pooled again from kept maps."""
        if self._mined is not None and self._mined[0] == index:
            _, own, features = self._mined
            return features[np.searchsorted(own, rows)]
        if index in self.negatives:
            features = torch.from_numpy(self.negatives.read(index, rows))
            return features.to(self.cache.extractor.device)
        pooled = self.cache.pool(index, rows)
        return pooled.features[pooled.inverse]

    def _apply_fc(self, features: torch.Tensor) -> torch.Tensor:
        return apply_fc(self.fc, features, self.config.model.precision)

    def _restore(self, miner: HardNegativeMiner) -> int:
        """Take up the mining where its last saved state stands: the next step."""
        if not self.checkpoint.is_file():
            return 0
        tensors = {name: tensor.numpy() for name, tensor in read_tensors(self.checkpoint).items()}
        step = int(tensors.pop("step")[0])
        self.negatives.restore(tensors.pop("stored"), int(tensors.pop("generation")[0]))
        miner.restore(MinerState(**tensors))
        return step

    def _save(self, miner: HardNegativeMiner, step: int) -> None:
        state = miner.state()
        self.negatives.compact(state.keys)
        numbers = {"step": [step], "generation": [self.negatives.generation]}
        arrays = state._asdict() | {"stored": self.negatives.keys}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        write_tensors(
            self.checkpoint,
            tensors | {name: torch.tensor(number) for name, number in numbers.items()},
        )
        self.negatives.remove_old()


def _join(parts: Sequence[Arrays]) -> Arrays:
    """Join weights and intercepts of parts, of which each has every so many-th class."""
    count, classes = len(parts), sum(len(coef) for coef, _ in parts)
    coef = np.empty((classes, parts[0][0].shape[1]), np.float32)
    intercept = np.empty(classes, np.float32)
    for number, (own, own_intercept) in enumerate(parts):
        coef[number::count], intercept[number::count] = own, own_intercept
    return coef, intercept


def _write(path: Path, coef: NDArray[np.float32], intercept: NDArray[np.float32]) -> None:
    write_tensors(path, {"coef": torch.from_numpy(coef), "intercept": torch.from_numpy(intercept)})
