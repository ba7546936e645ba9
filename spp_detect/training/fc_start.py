"""What the fc layers start from: a net's own, principal components, or random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from spp_detect.config import RunConfig
from spp_detect.fc import FcLayers
from spp_detect.files import write_tensors
from spp_detect.progress import track
from spp_detect.training.feature_cache import FeatureCache
from spp_detect.training.stage import Stage

COMPONENT_WINDOWS = 12_000  # of which principal components are found; they bound their number


class FcStart(Stage[None]):
    """Start the fc layers from principal components of pooled features, or as configured.

    Parameters
    ----------
    work : Path
        The run's work folder.
    photographs : sequence of int
        Their windows are pooled in this order until they are enough.
    cache : FeatureCache
        Pools windows.
    fc : FcLayers
        They change in place.
    config : RunConfig
        The constants.
    """

    name = "fc start"

    def __init__(
        self,
        work: Path,
        photographs: list[int],
        cache: FeatureCache,
        fc: FcLayers,
        config: RunConfig,
    ) -> None:
        self.leaves = (work / "fc.safetensors",)
        self.photographs = photographs
        self.cache = cache
        self.fc = fc
        self.config = config

    def run(self) -> None:
        """Find the components, where they are asked for."""
        if self.config.training.fc_start == "components":
            most = min(COMPONENT_WINDOWS, self.config.model.fc_width // 2)
            self.fc.start_from_components(*self._find_components(most))
        write_tensors(self.leaves[0], self.fc.state_dict())

    def load(self) -> None:
        """Load the layers' start."""
        self.fc.load_state_dict(load_file(self.leaves[0]))
        self.fc.refresh()

    def _find_components(self, most: int) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Find principal components of random windows' pooled features.

        Returns
        -------
        components : float32 (K, D)
            Orthonormal, K at most `most`.
        mean : float32 (D,)
            Of the features.
        scale : float
            The factor that gives the components a mean L2 norm of feature_norm.
        """
        random = np.random.default_rng(self.config.model.seed)
        each = -(-COMPONENT_WINDOWS // len(self.photographs))
        # Maps of a trunk that will be tuned are of no use later.
        keep = not self.config.training.train_from
        pooled_rows = []
        for i in track(self.photographs, "principal components"):
            rows = self.cache.table.find_proposals(i)
            sample = rows[random.permutation(len(rows))[:each]]
            pooled = self.cache.pool(i, sample, keep=keep)
            pooled_rows.append(pooled.features[pooled.inverse].float())
            if sum(map(len, pooled_rows)) >= COMPONENT_WINDOWS:
                break
        features = torch.cat(pooled_rows)
        mean = features.mean(dim=0)
        torch.manual_seed(self.config.model.seed)
        count = min(most, *features.shape)
        _, _, components = torch.svd_lowrank(features.sub_(mean), min(count + 64, *features.shape))
        scale = self.config.training.feature_norm / features.norm(dim=1).mean().item()
        return components.T[:count].contiguous(), mean, scale
