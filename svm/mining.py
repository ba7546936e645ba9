"""Hard negative mining for all classes in one pass over the photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from svm.linear import LinearSvm, SvmError

Features = NDArray[np.floating]


class MinerState(NamedTuple):
    """What a miner holds between two photographs, small enough to be saved often.

    Attributes
    ----------
    coef : float32 (C, D) and intercept, float32 (C,): the SVMs so far.
    trained : bool (C,), whether a class has an SVM yet.
    added : int64 (C,), new negatives since a class was last trained.
    keys : int64 (M,), the negatives held, class after class.
    counts : int64 (C,), how many of `keys` each class has.
    """

    coef: NDArray[np.float32]
    intercept: NDArray[np.float32]
    trained: NDArray[np.bool_]
    added: NDArray[np.int64]
    keys: NDArray[np.int64]
    counts: NDArray[np.int64]


class HardNegativeMiner:
    """Train one SVM per class while photographs stream past.

    A class takes all negatives of the first photograph that has any. Of later photographs it keeps
    those that score above `hard_score`; after `retrain_after` new ones its SVM is trained again,
    and negatives that then score below `evict_score` are dropped. A negative that several classes
    hold is stored once, as it was given: hand it over in half precision to halve the memory.

    Parameters
    ----------
    positives : per class, float (P, D), P of at least 1.
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
        svm: LinearSvm,
        feature_scale: float = 1.0,
        hard_score: float = -1.0,
        evict_score: float = -1.2,
        retrain_after: int = 2000,
    ) -> None:
        for c, examples in enumerate(positives):
            if np.ndim(examples) != 2 or len(examples) == 0:
                raise SvmError(
                    f"class {c}: positives of shape {np.shape(examples)}, expected (P, D)"
                )
        self.positives = list(positives)
        self.svm = svm
        self.feature_scale = feature_scale
        self.hard_score = hard_score
        self.evict_score = evict_score
        self.retrain_after = retrain_after
        classes, length = len(positives), positives[0].shape[1]
        self.coef = np.zeros((classes, length), np.float32)
        self.intercept = np.zeros(classes, np.float32)
        self._trained = np.zeros(classes, bool)
        self._added = np.zeros(classes, np.int64)
        self._held: list[dict[int, None]] = [{} for _ in positives]  # keys, in order of arrival
        self._rows: dict[int, Features] = {}

    def mine(
        self, features: Features, negative: NDArray[np.bool_], keys: NDArray[np.int64]
    ) -> list[int]:
        """Take the hard negatives of one photograph.

        Parameters
        ----------
        features : (U, D) of its windows, the same ones whenever a key comes again.
        negative : (U, C), which window is a negative of which class.
        keys : int64 (U,), a number for each window, different in all photographs.

        Returns
        -------
        The classes whose SVM was trained again.
        """
        scores = np.asarray(features, np.float32) @ self.coef.T + self.intercept
        hard = negative & ((scores > self.hard_score) | ~self._trained)
        for row in np.flatnonzero(hard.any(axis=1)):
            self._rows.setdefault(int(keys[row]), features[row].copy())
        retrained = []
        for c in range(len(self.positives)):
            new = [k for k in keys[hard[:, c]].tolist() if k not in self._held[c]]
            self._held[c].update(dict.fromkeys(new))
            self._added[c] += len(new)
            if new and (not self._trained[c] or self._added[c] > self.retrain_after):
                self._train(c)
                retrained.append(c)
        if retrained:
            self._drop_unheld()
        return retrained

    def finish(self) -> None:
        """Train every class once more on all that it holds.

        Raises
        ------
        SvmError
            for a class that never met a negative.
        """
        for c in range(len(self.positives)):
            if not self._held[c] and not self._trained[c]:
                raise SvmError(f"class {c}: no negative window in any photograph")
            if self._added[c]:
                self._train(c)
        self._drop_unheld()

    @property
    def held(self) -> list[int]:
        """How many negatives each class holds."""
        return [len(keys) for keys in self._held]

    def state(self) -> MinerState:
        """What `restore` needs, without the features."""
        keys = [k for held in self._held for k in held]
        return MinerState(
            self.coef.copy(),
            self.intercept.copy(),
            self._trained.copy(),
            self._added.copy(),
            np.array(keys, np.int64),
            np.array(self.held, np.int64),
        )

    def restore(
        self, state: MinerState, fetch: Callable[[NDArray[np.int64]], Features]
    ) -> HardNegativeMiner:
        """Go on from a state.

        Parameters
        ----------
        state : from `state()`.
        fetch : gives the features (M, D) of M increasing keys, as they were mined.
        """
        self.coef, self.intercept = state.coef.copy(), state.intercept.copy()
        self._trained, self._added = state.trained.copy(), state.added.copy()
        parts = np.split(state.keys, np.cumsum(state.counts)[:-1])
        self._held = [dict.fromkeys(part.tolist()) for part in parts]
        keys = np.unique(state.keys)
        self._rows = dict(zip(keys.tolist(), fetch(keys), strict=True)) if len(keys) else {}
        return self

    def _train(self, c: int) -> None:
        positives, held = self.positives[c], list(self._held[c])
        examples = np.empty((len(positives) + len(held), positives.shape[1]))
        examples[: len(positives)] = positives
        for i, key in enumerate(held, len(positives)):
            examples[i] = self._rows[key]
        examples *= self.feature_scale
        labels = np.where(np.arange(len(examples)) < len(positives), 1, -1)
        self.svm.fit(examples, labels)
        self.coef[c] = self.svm.coef_ * np.float32(self.feature_scale)
        self.intercept[c] = self.svm.intercept_
        self._trained[c] = True
        self._added[c] = 0
        scores = self.svm.decision_function(examples[len(positives) :])
        kept = [key for key, score in zip(held, scores, strict=True) if score >= self.evict_score]
        self._held[c] = dict.fromkeys(kept)

    def _drop_unheld(self) -> None:
        wanted = set().union(*self._held)
        self._rows = {k: row for k, row in self._rows.items() if k in wanted}
