"""Hard negative mining for all classes in one pass over the photographs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svm.examples import StoredExamples, Table
from svm.linear import LinearSvm, SvmError

Features = NDArray[np.floating]
Keys = NDArray[np.int64]


class MinerState(NamedTuple):
    """What a miner holds between two photographs, small enough to be saved often.

    Attributes
    ----------
    coef : numpy.ndarray
        Float32 ``(C, D)``, the weights of the SVMs so far.
    intercept : numpy.ndarray
        Float32 ``(C,)``, their intercepts.
    trained : numpy.ndarray
        Bool ``(C,)``, whether a class has an SVM yet.
    added : numpy.ndarray
        Int64 ``(C,)``, new negatives since a class was last trained.
    keys : numpy.ndarray
        Int64 ``(M,)``, the negatives held, class after class.
    counts : numpy.ndarray
        Int64 ``(C,)``, how many of ``keys`` each class holds.
    """

    coef: NDArray[np.float32]
    intercept: NDArray[np.float32]
    trained: NDArray[np.bool_]
    added: NDArray[np.int64]
    keys: Keys
    counts: NDArray[np.int64]


class HardNegativeMiner:
    """Train one SVM per class while photographs stream past.

    A class takes all negatives of the first photograph that has any. Of later photographs it keeps
    those that score above ``hard_score``; after ``retrain_after`` new ones its SVM is trained
    again, and negatives that then score below ``evict_score`` are dropped. Only keys of negatives
    are held: their features are fetched when a class is trained, so that memory is bounded by the
    examples of `side_by_side` classes. Those that are due after the same photograph, and all at the
    end, are trained side by side: while one class's features are fetched, always in the thread of
    the caller, the SVMs of others are solved in threads. The result is the same whatever their
    number, as no class knows of another.

    Parameters
    ----------
    positives : sequence of numpy.ndarray
        Float ``(P, D)`` for each of the C classes, P of at least 1.
    fetch : callable
        Writes the features of M increasing keys, int64 ``(M,)`` as given to `mine`, into its second
        argument, float32 ``(M, D)``; they may be rounded.
    svm : LinearSvm
        The parameters of every class's SVM.
    feature_scale : float
        Factor on all features; ``coef`` holds weights for features without it.
    hard_score : float
        Negatives that score above it are hard.
    evict_score : float
        Negatives that score below it after a training are dropped.
    retrain_after : int
        A class is trained again when it has gained more negatives than this.
    side_by_side : int
        How many classes' examples are in memory at once, at least 1.
    memory : int, optional
        Bytes of all these examples, as float32; a class with more than its share of them is trained
        by `LinearSvm.fit_in_blocks` on what lies on disk, with the same result up to the tolerance.
        No bound if not given.
    scratch : Path, optional
        Folder for what lies on disk then.

    Attributes
    ----------
    coef : numpy.ndarray
        Float32 ``(C, D)``, the weights of each class's SVM; 0 before its first training.
    intercept : numpy.ndarray
        Float32 ``(C,)``.

    Raises
    ------
    SvmError
        Without classes, and for a class without positives or with another D.

    Examples
    --------
    One class, two photographs of three negative windows each. Their keys are rows of a table from
    which their features are fetched. Of the first photograph all negatives are taken; of the second
    only the one that lies near the positives is hard.

    >>> import numpy as np
    >>> table = np.array([[0, 1], [0, 2], [1, 2], [0, 3], [1, 3], [2, 1]], np.float32)
    >>> def fetch(keys, out):
    ...     out[:] = table[keys]
    >>> positives = [np.array([[3, 0], [4, 1]], np.float32)]
    >>> miner = HardNegativeMiner(positives, fetch, LinearSvm(c=1.0), evict_score=-100.0)
    >>> every = np.ones((3, 1), bool)
    >>> miner.mine(table[:3], every, np.arange(3)), miner.held
    ([0], [3])
    >>> miner.mine(table[3:], every, np.arange(3, 6)), miner.held
    ([], [4])
    >>> miner.finish()
    >>> miner.coef.shape, miner.state().keys
    ((1, 2), array([0, 1, 2, 5]))
    """

    def __init__(
        self,
        positives: Sequence[Table],
        fetch: Callable[[Keys, NDArray[np.float32]], None],
        svm: LinearSvm,
        feature_scale: float = 1.0,
        hard_score: float = -1.0,
        evict_score: float = -1.2,
        retrain_after: int = 2000,
        side_by_side: int = 1,
        memory: int | None = None,
        scratch: Path | None = None,
    ) -> None:
        if not positives:
            raise SvmError("no classes: expected positives of at least one")
        length = np.shape(positives[0])[-1]
        for c, examples in enumerate(positives):
            shape = np.shape(examples)
            if len(shape) != 2 or shape[0] == 0 or shape[1] != length:
                raise SvmError(
                    f"class {c}: positives of shape {shape}, expected (P, D), D = {length}, P > 0"
                )
        self.positives = list(positives)
        self.fetch = fetch
        self.svm = svm
        self.feature_scale = feature_scale
        self.hard_score = hard_score
        self.evict_score = evict_score
        self.retrain_after = retrain_after
        self.side_by_side = side_by_side
        # Values of a class's examples in memory.
        self.share = np.inf if memory is None else memory / min(side_by_side, len(positives)) / 4
        self.scratch = scratch
        classes = len(positives)
        self.coef = np.zeros((classes, length), np.float32)
        self.intercept = np.zeros(classes, np.float32)
        self._trained = np.zeros(classes, bool)
        self._added = np.zeros(classes, np.int64)
        self._held: list[Keys] = [np.zeros(0, np.int64) for _ in positives]  # increasing

    def mine(self, features: Features, negative: NDArray[np.bool_], keys: Keys) -> list[int]:
        """Take the hard negatives of one photograph.

        Parameters
        ----------
        features : numpy.ndarray
            Float ``(U, D)``, of its windows.
        negative : numpy.ndarray
            Bool ``(U, C)``, which window is a negative of which class.
        keys : numpy.ndarray
            Int64 ``(U,)``, a number for each window, different in all photographs.

        Returns
        -------
        list of int
            The classes whose SVM was trained again.
        """
        scores = np.asarray(features, np.float32) @ self.coef.T + self.intercept
        hard = negative & ((scores > self.hard_score) | ~self._trained)
        due = []
        for c in np.flatnonzero(hard.any(axis=0)).tolist():
            held = np.union1d(self._held[c], keys[hard[:, c]])
            self._added[c] += len(held) - len(self._held[c])
            self._held[c] = held
            if not self._trained[c] or self._added[c] > self.retrain_after:
                due.append(c)
        self._train_all(due)
        return due

    def finish(self) -> None:
        """Train every class once more on all that it holds.

        Raises
        ------
        SvmError
            For a class that never met a negative.
        """
        for c in np.flatnonzero(~self._trained):
            raise SvmError(f"class {c}: no negative window in any photograph")
        self._train_all(np.flatnonzero(self._added).tolist())

    @property
    def held(self) -> list[int]:
        """How many negatives each class holds."""
        return [len(keys) for keys in self._held]

    def holds(self, keys: Keys) -> NDArray[np.bool_]:
        """Return which keys any class holds, bool ``(M,)``."""
        held = np.zeros(len(keys), bool)
        for own in self._held:
            held |= np.isin(keys, own)
        return held

    def state(self) -> MinerState:
        """Return what `restore` needs, copied."""
        return MinerState(
            self.coef.copy(),
            self.intercept.copy(),
            self._trained.copy(),
            self._added.copy(),
            np.concatenate(self._held),
            np.array(self.held, np.int64),
        )

    def restore(self, state: MinerState) -> HardNegativeMiner:
        """Go on from a state.

        Parameters
        ----------
        state : MinerState
            Of a miner of the same positives and parameters.

        Returns
        -------
        HardNegativeMiner
            Itself.
        """
        self.coef, self.intercept = state.coef.copy(), state.intercept.copy()
        self._trained, self._added = state.trained.copy(), state.added.copy()
        self._held = np.split(state.keys, np.cumsum(state.counts)[:-1])
        return self

    def _train_all(self, classes: Iterable[int]) -> None:
        """Train classes, side by side where there are several."""
        solving: deque[Future[None]] = deque()
        with ThreadPoolExecutor(self.side_by_side) as pool:
            for c in classes:
                if len(solving) == self.side_by_side:
                    solving.popleft().result()
                # Handed over at once: a name for them here would keep them in memory.
                solving.append(pool.submit(self._solve, c, self._gather(c)))
            for future in solving:
                future.result()

    def _gather(self, c: int) -> NDArray[np.float32] | StoredExamples:
        """Make a class's examples, its positives first: float32 (P + M, D), where they fit."""
        positives, held = self.positives[c], self._held[c]
        length = positives.shape[1]
        if (len(positives) + len(held)) * length > self.share:
            # Half as much again is held while they are read, or written.
            most = max(1, int(self.share / 1.5 / length))
            given = self.fetch, self.feature_scale, most
            return StoredExamples(positives, held, *given, self.scratch)
        # Straight into what the solver takes: these are the largest arrays of all.
        examples = np.empty((len(positives) + len(held), length), np.float32)
        examples[: len(positives)] = positives[:]
        self.fetch(held, examples[len(positives) :])
        examples *= np.float32(self.feature_scale)
        return examples

    def _solve(self, c: int, examples: NDArray[np.float32] | StoredExamples) -> None:
        """Train a class's SVM and drop the negatives that are easy now; touches no other class."""
        first = len(self.positives[c])
        labels = np.where(np.arange(len(examples)) < first, 1, -1)
        svm = copy(self.svm)
        if isinstance(examples, StoredExamples):
            svm.fit_in_blocks(examples.read, labels, examples.most)
            scores = examples.score(svm.decision_function)
        else:
            scores = svm.fit(examples, labels).decision_function(examples[first:])
        self.coef[c] = svm.coef_ * np.float32(self.feature_scale)
        self.intercept[c] = svm.intercept_
        self._trained[c] = True
        self._added[c] = 0
        self._held[c] = self._held[c][scores >= self.evict_score]
