"""What the fc layers start from: a net's own, principal components, or random weights."""

from __future__ import annotations

from pathlib import Path

from spp_detect.config import RunConfig
from spp_detect.fc import FcLayers
from spp_detect.files import write_tensors
from spp_detect.training.components import Components
from spp_detect.training.run_folder import TrainingError, read_tensors
from spp_detect.training.stage import Stage


class FcStart(Stage[None]):
    """Start the fc layers from principal components of pooled features, or as configured.

    Parameters
    ----------
    work : Path
        The run's work folder.
    components : Components, optional
        Where they are asked for.
    fc : FcLayers
        They change in place.
    config : RunConfig
        The constants.
    """

    name = "fc start"

    def __init__(
        self, work: Path, components: Components | None, fc: FcLayers, config: RunConfig
    ) -> None:
        self.leaves = (work / "fc.safetensors",)
        self.components = components
        self.fc = fc
        self.config = config

    def run(self) -> None:
        """Start from the components, where they are asked for."""
        training = self.config.training
        if self.components is not None and training.fc_start == "components":
            start = self.components.cut(self.config.model.fc_width // 2)
            if not start.norm:
                raise TrainingError(
                    "features of all windows are alike; expected some that differ, of more "
                    "photographs or other weights"
                )
            self.fc.start_from_components(
                start.vectors, start.mean, training.feature_norm / start.norm
            )
        write_tensors(self.leaves[0], self.fc.state_dict())

    def load(self) -> None:
        """Load the layers' start."""
        self.fc.load_state_dict(read_tensors(self.leaves[0]))
        self.fc.refresh()
