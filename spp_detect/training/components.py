"""Principal components of pooled windows: where fc layers start, and the space fc6 learns in."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from spp_detect.config import RunConfig
from spp_detect.files import write_tensors
from spp_detect.progress import track
from spp_detect.training.feature_cache import FeatureCache
from spp_detect.training.run_folder import read_tensors
from spp_detect.training.stage import Stage

COMPONENT_WINDOWS = 12_000  # of which principal components are found; they bound their number


class Components(NamedTuple):
    """Principal components of pooled features.

    Attributes
    ----------
    vectors : float32 (K, D)
        Orthonormal, the strongest first.
    mean : float32 (D,)
        Of the features.
    norm : float
        Mean L2 norm of the features less their mean.
    """

    vectors: torch.Tensor
    mean: torch.Tensor
    norm: float

    def cut(self, count: int) -> Components:
        """The strongest `count` of them."""
        return self._replace(vectors=self.vectors[:count])

    def make_layer(self) -> nn.Linear:
        """Make the layer that turns pooled features less their mean, (N, D), into (N, K)."""
        count, length = self.vectors.shape
        layer = nn.Linear(length, count, bias=False, device="meta")
        layer.weight = nn.Parameter(self.vectors)
        return layer


class FindComponents(Stage[Components]):
    """Find principal components of random windows' pooled features.

    Parameters
    ----------
    work : Path
        The run's work folder.
    photographs : list of int
        Their windows are pooled in this order until they are enough.
    cache : FeatureCache
        Pools windows.
    config : RunConfig
        The constants.
    """

    name = "components"

    def __init__(
        self, work: Path, photographs: list[int], cache: FeatureCache, config: RunConfig
    ) -> None:
        self.leaves = (work / "components.safetensors",)
        self.photographs = photographs
        self.cache = cache
        self.config = config

    def run(self) -> None:
        """Find as many as the fc layers start from and learn in."""
        training = self.config.training
        started = self.config.model.fc_width // 2 if training.fc_start == "components" else 0
        features = self._pool_windows()
        mean = features.mean(dim=0)
        features -= mean
        count = min(max(started, training.finetune_components), *features.shape)
        torch.manual_seed(self.config.model.seed)
        _, _, found = torch.svd_lowrank(features, min(count + 64, *features.shape))
        norm = features.norm(dim=1).mean()
        tensors = {"vectors": found.T[:count].contiguous(), "mean": mean, "norm": norm[None]}
        write_tensors(self.leaves[0], tensors)

    def load(self) -> Components:
        """Read the components."""
        tensors = read_tensors(self.leaves[0])
        return Components(tensors["vectors"], tensors["mean"], tensors["norm"].item())

    def _pool_windows(self) -> torch.Tensor:
        """Pool random windows: float32 (N, D), a few of many photographs."""
        random = np.random.default_rng(self.config.model.seed)
        each = -(-COMPONENT_WINDOWS // len(self.photographs))
        # Maps of a trunk that will be tuned are of no use later.
        keep = not self.config.training.train_from
        pooled_rows: list[torch.Tensor] = []
        for i in track(self.photographs, "principal components"):
            rows = self.cache.table.find_proposals(i)
            sample = rows[random.permutation(len(rows))[:each]]
            pooled = self.cache.pool(i, sample, keep=keep)
            pooled_rows.append(pooled.features[pooled.inverse].float().cpu())
            if sum(map(len, pooled_rows)) >= COMPONENT_WINDOWS:
                break
        return torch.cat(pooled_rows)
