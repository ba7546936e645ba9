"""The factor on all features: 20 over their mean L2 norm (as the release)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spp_detect.config import RunConfig
from spp_detect.fc import FcLayers, apply_fc
from spp_detect.files import write_json
from spp_detect.progress import track
from spp_detect.training.feature_cache import FeatureCache
from spp_detect.training.run_folder import TrainingError, read_json
from spp_detect.training.stage import Stage
from spp_detect.training.windows import Rows
from spp_detect.workers import Workers


class FeatureScales(NamedTuple):
    """Factors on features.

    Attributes
    ----------
    pooled : float
        On pooled features, which the regression takes.
    svm : float
        On what the SVMs take.
    """

    pooled: float
    svm: float


class MeasureScales(Stage[FeatureScales]):
    """Measure 20 / mean L2 norm over random windows of random photographs.

    Parameters
    ----------
    work : Path
        The run's work folder.
    photographs : list of int
        The first `norm_photographs` of them that have windows are measured.
    cache : FeatureCache
        Pools windows.
    fc : FcLayers, optional
        Between pooled features and SVMs.
    config : RunConfig
        The constants.
    workers : Workers, optional
        Who measures, some photographs each.
    """

    name = "feature scale"

    def __init__(
        self,
        work: Path,
        photographs: list[int],
        cache: FeatureCache,
        fc: FcLayers | None,
        config: RunConfig,
        workers: Workers | None = None,
    ) -> None:
        self.leaves = (work / "feature_scale.json",)
        self.photographs = photographs
        self.cache = cache
        self.fc = fc
        self.config = config
        self.workers = workers or Workers()

    def run(self) -> None:
        """Measure the norms."""
        samples = self._draw()
        norms = list(track(self.workers.map(self._measure, samples), self.name, len(samples)))
        if not norms:
            raise TrainingError("no photograph has a window; expected some, by whatever method")
        if not np.mean(norms, axis=0).all():
            raise TrainingError(
                "features of all windows are zero; expected some above: give fine-tuning lower "
                "rates, or other weights"
            )
        norm = self.config.training.feature_norm
        pooled_scale, svm_scale = (norm / np.mean(norms, axis=0)).tolist()
        write_json(self.leaves[0], {"pooled": pooled_scale, "svm": svm_scale})

    def load(self) -> FeatureScales:
        """Read the factors."""
        scales = read_json(self.leaves[0])
        return FeatureScales(float(scales["pooled"]), float(scales["svm"]))

    def _draw(self) -> list[tuple[int, Rows]]:
        """Draw windows of photographs that have any: index and rows."""
        training = self.config.training
        random = np.random.default_rng(self.config.model.seed)
        found = ((i, self.cache.table.find_proposals(i)) for i in self.photographs)
        some = islice(((i, rows) for i, rows in found if len(rows)), training.norm_photographs)
        return [
            (i, rows[random.permutation(len(rows))[: training.norm_windows]]) for i, rows in some
        ]

    def _measure(self, samples: Sequence[tuple[int, Rows]]) -> Iterator[list[float]]:
        """Measure mean norms of pooled features, and of what the SVMs take."""
        for i, rows in samples:
            pooled = self.cache.pool(i, rows)
            described = apply_fc(self.fc, pooled.features, self.config.model.precision)
            yield [
                features.float().norm(dim=1)[pooled.inverse].mean().item()
                for features in (pooled.features, described)
            ]
