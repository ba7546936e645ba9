"""What learns on top of fc7, or of pooled features: the softmax's layer, and one that moves boxes.

As in Fast R-CNN.
"""

from __future__ import annotations

import torch
from torch import nn

from spp_detect.config import TrainingConfig
from spp_detect.heads import Heads

TARGET_STD = (0.1, 0.1, 0.2, 0.2)  # the box layer learns targets divided by these
BOXES_STD = 0.001  # of its first weights


class LastLayers(nn.Module):
    """fc8, over C classes and the background, and where boxes learn a layer of four a class.

    Parameters
    ----------
    width : int
        F, the values of fc7, or of a pooled window.
    classes : int
        C.
    config : TrainingConfig
        Whether boxes learn, and the background's first bias.
    """

    def __init__(self, width: int, classes: int, config: TrainingConfig) -> None:
        super().__init__()
        self.classes = classes
        self.fc8 = nn.Linear(width, classes + 1)
        nn.init.normal_(self.fc8.weight, std=0.01)
        nn.init.zeros_(self.fc8.bias)
        self.fc8.bias.data[classes] = config.fc8_background_bias
        if config.finetune_boxes:
            self.boxes = nn.Linear(width, 4 * classes)
            nn.init.normal_(self.boxes.weight, std=BOXES_STD)
            nn.init.zeros_(self.boxes.bias)

    @property
    def linear(self) -> tuple[nn.Linear, ...]:
        """The layers, side by side."""
        return (self.fc8, self.boxes) if hasattr(self, "boxes") else (self.fc8,)

    def move(self, described: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Predict the targets, divided by TARGET_STD, of windows (n, F), a class each: (n, 4)."""
        every: torch.Tensor = self.boxes(described).float().unflatten(1, (self.classes, 4))
        return every[torch.arange(len(every)), classes]

    @torch.no_grad()
    def make_heads(self) -> Heads:
        """Make the heads of a detector that scores by the softmax."""
        std = torch.tensor(TARGET_STD, device=self.fc8.weight.device)
        coef = self.boxes.weight.unflatten(0, (self.classes, 4)) * std[:, None]
        intercept = self.boxes.bias.unflatten(0, (self.classes, 4)) * std
        scores = self.fc8.weight.clone(), self.fc8.bias.clone()
        return Heads(*scores, coef.transpose(1, 2), intercept)


class Standardised(nn.Module):
    """Brings pooled features to mean 0 and like spread; undone by weights of what takes them.

    Values that hardly vary are not blown up: their spread counts as a share of the median one.

    Parameters
    ----------
    length : int
        D.
    norm : float
        Of a window, on the mean.
    """

    LEAST_SPREAD = 0.3

    mean: torch.Tensor
    factor: torch.Tensor

    def __init__(self, length: int, norm: float) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("factor", torch.ones(length))

    def measure(self, features: torch.Tensor) -> None:
        """Measure mean and spread on features of windows, float32 (N, D)."""
        self.mean = features.mean(dim=0)
        spread = features.std(dim=0)
        spread = spread.clamp(min=max(self.LEAST_SPREAD * spread.median().item(), 1e-6))
        norm = ((features - self.mean) / spread).norm(dim=1).mean()
        self.factor = self.norm / norm / spread

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Bring features, (N, D), to mean 0 and like spread."""
        return (features - self.mean) * self.factor

    @torch.no_grad()
    def fold_into(self, *layers: nn.Linear) -> None:
        """Let layers take features as they are, with the same result; this does nothing then."""
        for layer in layers:
            layer.weight.mul_(self.factor)
            layer.bias.sub_(layer.weight @ self.mean)
        self.mean = torch.zeros_like(self.mean)
        self.factor = torch.ones_like(self.factor)
