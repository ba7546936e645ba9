"""Hard negative mining for all classes in one pass over the photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svm.linear import LinearSvm, SvmError

Features = NDArray[np.floating]
Keys = NDArray[np.int64]


class MinerState(NamedTuple):
    """What a miner holds between two photographs, small enough to be saved often.

    Attributes
    ----------
    coef : float32 (C, D) and intercept, float32 (C,): the SVMs so far.
    trained : bool (C,), whether a class has an SVM yet.
    added : int64 (C,), new negatives since a class was last trained.
    keys : int64 (M,), the negatives held, class after class.
    counts : int64 (C,), how many of `keys` each class holds.
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
    those that score above `hard_score`; after `retrain_after` new ones its SVM is trained again,
    and negatives that then score below `evict_score` are dropped. Only keys of negatives are held:
    their features are fetched when a class is trained, so that memory is bounded by the examples
    of one class.

    Parameters
    ----------
    positives : per class, float (P, D), P of at least 1.
    fetch : writes the features of M increasing keys, as given to `mine`, into float32 (M, D);
        they may be rounded.
    svm : parameters of every class's SVM.
    feature_scale : factor on all features; `coef` holds weights for features without it.
    hard_score, evict_score, retrain_after : see above.

    Raises
    ------
    SvmError
        for a class without positives.
    """

    def __init__(
        self,
        positives: Sequence[Features],
        fetch: Callable[[Keys, NDArray[np.float32]], None],
        svm: LinearSvm,
        feature_scale: float = 1.0,
        hard_score: float = -1.0,
        evict_score: float = -1.2,
        retrain_after: int = 2000,
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
        features : (U, D) of its windows.
        negative : bool (U, C), which window is a negative of which class.
        keys : int64 (U,), a number for each window, different in all photographs.

        Returns
        -------
        The classes whose SVM was trained again.
        """
        scores = np.asarray(features, np.float32) @ self.coef.T + self.intercept
        hard = negative & ((scores > self.hard_score) | ~self._trained)
        retrained = []
        for c in np.flatnonzero(hard.any(axis=0)).tolist():
            held = np.union1d(self._held[c], keys[hard[:, c]])
            self._added[c] += len(held) - len(self._held[c])
            self._held[c] = held
            if not self._trained[c] or self._added[c] > self.retrain_after:
                self._train(c)
                retrained.append(c)
        return retrained

    def finish(self) -> None:
        """Train every class once more on all that it holds.

        Raises
        ------
        SvmError
            for a class that never met a negative.
        """
        for c in range(len(self.positives)):
            if not self._trained[c]:
                raise SvmError(f"class {c}: no negative window in any photograph")
            if self._added[c]:
                self._train(c)

    @property
    def held(self) -> list[int]:
        """How many negatives each class holds."""
        return [len(keys) for keys in self._held]

    def state(self) -> MinerState:
        """What `restore` needs."""
        return MinerState(
            self.coef.copy(),
            self.intercept.copy(),
            self._trained.copy(),
            self._added.copy(),
            np.concatenate(self._held),
            np.array(self.held, np.int64),
        )

    def restore(self, state: MinerState) -> HardNegativeMiner:
        """Go on from a state."""
        self.coef, self.intercept = state.coef.copy(), state.intercept.copy()
        self._trained, self._added = state.trained.copy(), state.added.copy()
        self._held = np.split(state.keys, np.cumsum(state.counts)[:-1])
        return self

    def _train(self, c: int) -> None:
        positives, held = self.positives[c], self._held[c]
        # Straight into what the solver takes: these are the largest arrays of all.
        examples = np.empty((len(positives) + len(held), positives.shape[1]), np.float32)
        examples[: len(positives)] = positives
        self.fetch(held, examples[len(positives) :])
        examples *= np.float32(self.feature_scale)
        labels = np.where(np.arange(len(examples)) < len(positives), 1, -1)
        self.svm.fit(examples, labels)
        self.coef[c] = self.svm.coef_ * np.float32(self.feature_scale)
        self.intercept[c] = self.svm.intercept_
        self._trained[c] = True
        self._added[c] = 0
        scores = self.svm.decision_function(examples[len(positives) :])
        self._held[c] = held[scores >= self.evict_score]
