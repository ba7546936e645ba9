"""Which windows a batch of fine-tuning holds (paper, section 4.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bbox_regression import encode
from data import LabelledSet, Photograph
from spp_detect.config import RunConfig, count_photographs
from spp_detect.training.targets import match_windows
from spp_detect.training.windows import WindowTable

POSITIVES_KEPT, NEGATIVES_KEPT = 80, 160  # of a photograph where few of its windows are drawn
MIRRORED_TARGETS = np.array((-1, 1, 1, 1), np.float32)  # times those of a window as it is
# Every tenth photograph, but no more than so many, chooses the snapshot and is not learnt from.
HELD_OUT, MOST_HELD_OUT = 10, 200


@dataclass(frozen=True)
class LabelledWindows:
    """A photograph's windows that may be drawn, by their rows in the table.

    Attributes
    ----------
    positives : int64 (P,)
        Windows of a class; true boxes are among them.
    labels : int64 (P,)
        Their classes.
    boxes : int64 (P,)
        The box that each overlaps best, among those that are not difficult.
    negatives : int64 (M,)
        Background near objects.
    """

    positives: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """All rows, increasing: int64 (P + M,)."""
        return np.union1d(self.positives, self.negatives)

    def thin(self, random: np.random.Generator) -> LabelledWindows:
        """Choose so many at random that a photograph's features can all be kept."""
        some = np.sort(random.permutation(len(self.positives))[:POSITIVES_KEPT])
        others = np.sort(random.permutation(len(self.negatives))[:NEGATIVES_KEPT])
        return LabelledWindows(
            self.positives[some], self.labels[some], self.boxes[some], self.negatives[others]
        )


class Draw(NamedTuple):
    """Windows of one photograph at one scale, some of a batch.

    Attributes
    ----------
    photograph : int
        Its index.
    mirrored : bool
        Whether the windows are those of its mirror image.
    scale : int
        Index of a scale.
    rows : int64 (n,)
        Of the windows in the table.
    labels : int64 (n,)
        Their classes; the background's number is that of the classes.
    """

    photograph: int
    mirrored: bool
    scale: int
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]


def label_windows(
    photograph: Photograph,
    windows: NDArray[np.float32],
    iou: float,
    background: tuple[float, ...],
) -> LabelledWindows:
    """Label a photograph's windows by the box that each overlaps best.

    Parameters
    ----------
    photograph : Photograph
        Its boxes that are not difficult count.
    windows : float32 (N, 4)
        In its pixels.
    iou : float
        Least overlap of a positive.
    background : (from, to)
        A negative's best overlap, the end excluded.
    """
    none = np.zeros(0, np.int64)
    if not len(photograph.labels.easy):
        return LabelledWindows(none, none, none, none)
    best, which = match_windows(photograph, windows)
    positives = np.flatnonzero(best >= iou)
    negatives = np.flatnonzero((best >= background[0]) & (best < background[1]))
    boxes = which[positives].astype(np.int64)
    labels = photograph.labels.easy.classes[boxes]
    return LabelledWindows(positives, labels, boxes, negatives)


class Sampler(ABC):
    """Draws the windows of batches: by the seed and the step alone, so that a run can go on.

    Parameters
    ----------
    dataset : LabelledSet
        The photographs.
    table : WindowTable
        Their windows.
    config : RunConfig
        Overlaps, positives and negatives of a batch, scales.
    mirrors : bool
        Whether half of what is drawn is mirrored.
    few : bool
        Whether the windows of a photograph that are ever drawn are to be few.

    Attributes
    ----------
    labelled : list of LabelledWindows
        The windows that may be drawn.
    held_out, learnt : list of int
        Photographs that are never drawn for a batch, and those that are.
    """

    def __init__(
        self,
        dataset: LabelledSet,
        table: WindowTable,
        config: RunConfig,
        *,
        mirrors: bool,
        few: bool = False,
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.table = table
        self.mirrors = mirrors
        self.background = len(dataset.classes)
        training = config.training
        self.labelled = [
            label_windows(
                photograph,
                table.find_learnt(i),
                training.finetune_iou,
                training.finetune_background,
            )
            for i, photograph in enumerate(dataset)
        ]
        if few:
            self.labelled = [
                one.thin(np.random.default_rng((config.model.seed, i, 6)))
                for i, one in enumerate(self.labelled)
            ]
        self._targets: dict[int, NDArray[np.float32]] = {}
        order = np.random.default_rng(config.model.seed).permutation(len(dataset))
        usable = [i for i in order.tolist() if len(self.labelled[i].positives)]
        every = max(HELD_OUT, -(-len(usable) // MOST_HELD_OUT))
        self.held_out, self.learnt = usable[::every], _leave_out(usable, every)

    @abstractmethod
    def draw_batch(self, step: int) -> list[Draw]:
        """Draw the windows of one batch."""

    def find_targets(self, draw: Draw) -> NDArray[np.float32]:
        """Find where the boxes of a draw's positives lie relative to them: float32 (p, 4).

        As `bbox_regression.encode` tells it; the box is the one that the window overlaps best.
        """
        rows = draw.rows[draw.labels < self.background]
        own = self._find_targets(draw.photograph)
        targets = own[np.searchsorted(self.labelled[draw.photograph].positives, rows)]
        return targets * MIRRORED_TARGETS if draw.mirrored else targets

    def _find_targets(self, index: int) -> NDArray[np.float32]:
        """Find the targets of all positives of a photograph, once: float32 (P, 4)."""
        if index not in self._targets:
            labelled, labels = self.labelled[index], self.dataset.photographs[index].labels
            windows = self.table.find(index)[labelled.positives]
            boxes = labels.easy.boxes[labelled.boxes]
            inclusive = self.config.model.regression_inclusive
            self._targets[index] = encode(windows, boxes, inclusive=inclusive).astype(np.float32)
        return self._targets[index]

    def draw_held_out(self, index: int, positives: int, negatives: int) -> list[Draw]:
        """Draw windows of a held-out photograph, always the same."""
        random = np.random.default_rng((self.config.model.seed, index, 2))
        return self._draw(index, positives, negatives, False, random)

    def _draw(
        self,
        index: int,
        positives: int,
        negatives: int,
        mirrored: bool,
        random: np.random.Generator,
    ) -> list[Draw]:
        """Draw windows of a photograph, each at a random scale."""
        labelled = self.labelled[index]
        rows, labels = draw_windows(labelled, positives, negatives, self.background, random)
        scales = self._draw_scales(len(rows), random)
        return [
            Draw(index, mirrored, int(s), rows[scales == s], labels[scales == s])
            for s in np.unique(scales)
        ]

    def _draw_scales(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        return random.integers(len(self.config.model.scales), size=count)


class PhotographSampler(Sampler):
    """Draws a batch from few photographs; those of an epoch come in a random order, each once.

    Where the trunk is tuned all windows of each have one scale.
    """

    def draw_batch(self, step: int) -> list[Draw]:
        """Draw the windows of one batch."""
        count = count_photographs(self.config.training)
        training, seed = self.config.training, self.config.model.seed
        orders: dict[int, NDArray[np.int64]] = {}  # two epochs may meet in a batch
        positives = training.finetune_positives // count
        negatives = training.finetune_negatives // count
        draws = []
        for place in range(step * count, (step + 1) * count):
            epoch, i = divmod(place, len(self.learnt))
            if epoch not in orders:
                random = np.random.default_rng((seed, epoch))
                orders[epoch] = random.permutation(len(self.learnt))
            random = np.random.default_rng((seed, place, 1))
            mirrored = self.mirrors and random.random() < 0.5
            draws += self._draw(
                self.learnt[orders[epoch][i]], positives, negatives, mirrored, random
            )
        return draws

    def _draw_scales(self, count: int, random: np.random.Generator) -> NDArray[np.int64]:
        scales = super()._draw_scales(count, random)
        if self.config.training.train_from:
            scales[:] = scales[:1]
        return scales


class WindowSampler(Sampler):
    """Draws a batch uniformly from the windows of all photographs, as the release does."""

    def __init__(
        self,
        dataset: LabelledSet,
        table: WindowTable,
        config: RunConfig,
        *,
        mirrors: bool,
        few: bool = False,
    ) -> None:
        super().__init__(dataset, table, config, mirrors=mirrors, few=few)
        none = np.zeros(0, np.int64)
        learnt = [(i, self.labelled[i]) for i in self.learnt]
        self._positives = [
            np.concatenate([none, *parts])
            for parts in (
                [np.full(len(one.positives), i) for i, one in learnt],
                [one.positives for _, one in learnt],
                [one.labels for _, one in learnt],
            )
        ]
        self._negatives = [
            np.concatenate([none, *parts])
            for parts in (
                [np.full(len(one.negatives), i) for i, one in learnt],
                [one.negatives for _, one in learnt],
                [np.full(len(one.negatives), self.background) for _, one in learnt],
            )
        ]

    def draw_batch(self, step: int) -> list[Draw]:
        """Draw the windows of one batch, each mirrored or not and at a scale of its own."""
        training = self.config.training
        random = np.random.default_rng((self.config.model.seed, step, 3))
        kinds = (
            (self._positives, training.finetune_positives),
            (self._negatives, training.finetune_negatives),
        )
        chosen = [_draw_rows(len(kind[0]), count, random) for kind, count in kinds]
        photographs, rows, labels = (
            np.concatenate([kind[k][own] for (kind, _), own in zip(kinds, chosen, strict=True)])
            for k in range(3)
        )
        scales = self._draw_scales(len(rows), random)
        mirrored = (random.random(len(rows)) < 0.5) & self.mirrors
        groups = np.stack([photographs, mirrored, scales], axis=1)
        order = np.lexsort(groups.T[::-1])
        begins = np.flatnonzero(np.diff(groups[order], axis=0, prepend=-1).any(axis=1))
        draws = []
        for own in np.split(order, begins[1:]):
            photograph, flip, scale = groups[own[0]].tolist()
            draws.append(Draw(photograph, bool(flip), scale, rows[own], labels[own]))
        return draws


def draw_windows(
    labelled: LabelledWindows,
    positives: int,
    negatives: int,
    background: int,
    random: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw rows of windows and their labels; `background` is the negatives' label.

    Where a kind is rarer than asked for, windows repeat; where it is missing, none is drawn.
    """
    chosen = _draw_rows(len(labelled.positives), positives, random)
    others = _draw_rows(len(labelled.negatives), negatives, random)
    rows = np.concatenate([labelled.positives[chosen], labelled.negatives[others]])
    labels = np.concatenate([labelled.labels[chosen], np.full(len(others), background, np.int64)])
    return rows, labels


def _draw_rows(available: int, wanted: int, random: np.random.Generator) -> NDArray[np.int64]:
    if available == 0:
        return np.zeros(0, np.int64)
    return random.choice(available, wanted, replace=available < wanted)


def _leave_out(items: list[int], every: int) -> list[int]:
    """All items but every tenth, say; all where nothing would be left."""
    return [item for i, item in enumerate(items) if i % every] or items
