"""The box regressors of all classes (paper, section 4.1)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from bbox_regression import BoxRegressor
from data import LabelledSet
from spp_detect.config import RunConfig
from spp_detect.files import write_tensors
from spp_detect.progress import track
from spp_detect.training.feature_cache import FeatureCache
from spp_detect.training.run_folder import read_tensors
from spp_detect.training.stage import Stage
from spp_detect.training.targets import select_regression_pairs
from spp_detect.training.windows import Rows, Windows
from spp_detect.workers import Workers

logger = logging.getLogger(__name__)

Regressors = tuple[torch.Tensor, torch.Tensor]  # weights (C, D, 4) and intercepts (C, 4)


class FitRegression(Stage[Regressors]):
    """Fit every class's box regressor to the windows that overlap its boxes enough.

    Parameters
    ----------
    work : Path
        The run's work folder.
    dataset : LabelledSet
        The photographs.
    cache : FeatureCache
        Pools windows.
    config : RunConfig
        The constants.
    scale : float
        Factor on pooled features.
    workers : Workers, optional
        Who fits, a class at a time.
    """

    name = "box regression"

    def __init__(
        self,
        work: Path,
        dataset: LabelledSet,
        cache: FeatureCache,
        config: RunConfig,
        scale: float,
        workers: Workers | None = None,
    ) -> None:
        classes = range(len(dataset.classes))
        self.leaves = tuple(work / f"regression-{c:03d}.safetensors" for c in classes)
        self.dataset = dataset
        self.cache = cache
        self.config = config
        self.scale = scale
        self.workers = workers or Workers()

    def run(self) -> None:
        """Fit the classes that an interrupted run has not fitted."""
        missing = [c for c, path in enumerate(self.leaves) if not path.is_file()]
        for _ in track(self.workers.map(self._fit, missing), self.name, len(missing)):
            pass

    def load(self) -> Regressors:
        """Read the regressors."""
        tensors = [read_tensors(path) for path in self.leaves]
        coefs, intercepts = ([one[name] for one in tensors] for name in ("coef", "intercept"))
        return torch.stack(coefs), torch.stack(intercepts)

    def _fit(self, classes: Sequence[int]) -> Iterator[int]:
        for c in classes:
            coef, intercept = self._fit_class(c)
            write_tensors(self.leaves[c], {"coef": coef, "intercept": intercept})
            yield c

    def _fit_class(self, c: int) -> Regressors:
        training = self.config.training
        regressor = BoxRegressor(
            training.regression_lambda, inclusive=self.config.model.regression_inclusive
        )
        pairs = 0
        for i, photograph in enumerate(self.dataset):
            windows = self.cache.table.find_learnt(i)
            rows, boxes = select_regression_pairs(
                photograph, windows, c, training.regression_iou, strict=training.regression_strict
            )
            self._add(regressor, i, rows, boxes)
            pairs += len(rows)
        if not pairs:
            self._add_own_boxes(regressor, c)
        regressor.solve()
        coef = torch.from_numpy(regressor.coef_ * np.float32(self.scale))
        return coef, torch.from_numpy(regressor.intercept_)

    def _add(self, regressor: BoxRegressor, i: int, rows: Rows, boxes: Windows) -> None:
        if len(rows):
            pooled = self.cache.pool(i, rows)
            features = pooled.features[pooled.inverse].float().cpu().numpy()
            regressor.partial_fit(features * np.float32(self.scale), pooled.windows, boxes)

    def _add_own_boxes(self, regressor: BoxRegressor, c: int) -> None:
        """Add a class's boxes, which need not move: where each is another class's box as well."""
        name = self.dataset.classes[c]
        logger.warning("no window is nearest to a box of class %s: its boxes are not moved", name)
        for i, photograph in enumerate(self.dataset):
            easy = photograph.labels.easy
            own = easy.classes == c
            self._add(regressor, i, self.cache.table.find_boxes(i)[own], easy.boxes[own])
