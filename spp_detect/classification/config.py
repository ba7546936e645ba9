"""Constants of a classifier and of its training (paper, sections 2.3 and 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spp_detect.config import PRECISIONS, ConfigError, check_fields
from spp_detect.levels import DEFAULT_LEVELS, check_levels

NO_PYRAMID = (6,)  # levels of the networks without one, whose last maps are pooled to 6 × 6
SINGLE_SIZE, MULTI_SIZE = (224,), (224, 180)
MINIMUM_SIDE = 256 / 224  # of an image beside that of its crop
STARTS = ("normal", "normed")

_HUGE = 1e12
_BOUNDS: dict[str, tuple[float, float]] = {
    "fc_depth": (0, 2),
    "fc_width": (1, 65536),
    **dict.fromkeys(("epochs", "batch", "patience"), (1, _HUGE)),
    **dict.fromkeys(("rate", "init_stddev"), (1e-12, _HUGE)),
    "momentum": (0, 1),
    **dict.fromkeys(("decay", "colour"), (0, _HUGE)),
    "held_out": (0.001, 0.5),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class ClassifierConfig:
    """All constants of a classifier: its layers, then how it is trained.

    Raises
    ------
    ConfigError
        For a value of another type, or one that is out of range.

    Examples
    --------
    >>> ClassifierConfig(levels=NO_PYRAMID, sizes=(224, 180))
    Traceback (most recent call last):
    spp_detect.config.ConfigError: sizes (224, 180): expected one, without a pyramid
    """

    backbone: str = "zf5"
    # Sides of the pyramid's grids of bins; one of 6 is what the paper compares with, "no SPP".
    levels: tuple[int, ...] = DEFAULT_LEVELS
    fc_depth: int = 2  # fc6 and fc7; 0: the classes right on the pooled maps
    fc_width: int = 4096

    # Sides of the square inputs in pixels, an epoch at each in turn; the first is that of tests.
    sizes: tuple[int, ...] = SINGLE_SIZE
    random_sizes: bool = False  # any between the least and the greatest of the sizes instead

    epochs: int = 70  # the paper's of ZF-5; 90 of the others
    batch: int = 128
    # The rate falls to a tenth where the error on held-out images has not fallen for so many
    # epochs, twice.
    rate: float = 0.01
    patience: int = 5
    momentum: float = 0.9  # of the normal start
    decay: float = 5e-4
    colour: float = 0.1  # spread of the change along the principal components of colours
    # "normal": weights from N(0, init_stddev), as the paper. "normed": weights by He et al. 2015
    # and a batch norm after each layer while it learns, folded away at the end; AdamW, whose rate
    # rises and falls once, in a cycle: for few images.
    start: str = "normal"
    init_stddev: float = 0.01

    held_out: float = 0.1  # share of images to measure the error on, where no folder of them is
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, {"precision": PRECISIONS, "start": STARTS}, _BOUNDS)
        try:
            check_levels(self.levels)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if not self.sizes or not all(32 <= size <= 2048 for size in self.sizes):
            raise ConfigError(f"sizes {self.sizes}: expected sides of 32 to 2048 pixels")
        if not self.has_pyramid and (len(self.sizes) > 1 or self.random_sizes):
            raise ConfigError(f"sizes {self.sizes}: expected one, without a pyramid")
        if self.random_sizes and len(self.sizes) < 2:
            raise ConfigError(f"random_sizes: expected two sizes at least, not {self.sizes}")

    @property
    def has_pyramid(self) -> bool:
        """Whether inputs may have any size."""
        return self.levels != NO_PYRAMID

    @property
    def size(self) -> int:
        """Side in pixels of the input at test time."""
        return self.sizes[0]


def config_from_json(values: Any) -> ClassifierConfig:
    """Make a configuration of what json held.

    Raises
    ------
    ConfigError
        For anything else than its keys and values.
    """
    try:
        fields: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values.items()
        }
        return ClassifierConfig(**fields)
    except (AttributeError, TypeError) as error:
        raise ConfigError(f"not a classifier's constants: {error}") from error
