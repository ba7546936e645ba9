"""Every constant of the method, named, with presets: the paper's, the release's, three beyond."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from proposals.settings import METHODS
from spp_detect.levels import DEFAULT_LEVELS, check_levels
from spp_detect.parts import PARTS

BACKBONES = (
    "zf5",
    "zf5_paper",
    "convnet5",
    "overfeat5",
    "overfeat7",
    "alexnet",
    "vgg16",
    "resnet18",
    "resnet34",
    "resnet50",
    "squeezenet1_1",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "small5",
)
TIMM = "timm:"  # before the name of a trunk of timm's
PRESETS = ("default", "paper", "release", "tuned-fc", "tuned-trunk", "fast-rcnn")
RULES = ("paper", "release")
DISTINCT = ("clamped", "unclamped")
SAMPLINGS = ("photographs", "windows")
OPTIMISERS = ("sgd", "adamw")
ROUNDINGS = ("nearest", "up")
FEATURES = ("pool5", "fc6", "fc7")
PHOTOGRAPHS_PER_BATCH = 16  # of fine-tuning
PHOTOGRAPHS_PER_TUNED_BATCH = 2  # where the trunk is tuned each costs a pass through it
EXTRACTORS = ("spp", "rcnn")
SCORES = ("svm", "softmax")
FC_STARTS = ("components", "random")
PRECISIONS = ("auto", "float32", "bfloat16")
SINGLE_SCALE = 688  # the paper's single scale
# Constants of a trained model that can be changed without training it again.
TEST_TIME = (
    "score_threshold",
    "nms_iou",
    "max_detections",
    "passes",
    "mirror",
    "vote_iou",
    "vote_score",
    "support",
    "support_iou",
)
# The same of scores that are the logarithms of odds: the first is a probability of 0.01.
LOG_ODDS: dict[str, Any] = {"score_threshold": -4.6, "vote_score": -3.0}
PAPER_SCALES = (480, 576, 688, 864, 1200)


class ConfigError(ValueError):
    """A configuration with an unknown key, a wrong type or a value out of range."""


@dataclass(frozen=True)
class Config:
    """What a trained model needs: how windows get their features, and the constants of test time.

    The defaults take from the paper and from the release; `make_config` makes either's own
    selection.

    Raises
    ------
    ConfigError
        For a value of another type, or one that is out of range.

    Examples
    --------
    >>> config = Config(scales=(480, 688), max_windows=2000)
    >>> config.levels
    (6, 3, 2, 1)
    >>> Config(nms_iou=2.0)
    Traceback (most recent call last):
    spp_detect.config.ConfigError: nms_iou 2.0: expected a value from 1e-12 to 1
    """

    preset: str = "default"

    # How windows get their features: SPP-net's pyramid on maps, or R-CNN's warped crops, for which
    # scales, projection and scale_rule have no meaning.
    extractor: str = "spp"

    # The trunk and what goes into it.
    backbone: str = "resnet18"
    weights: str = "none"  # the name of the weights, for the record
    # Of its convolutions and the fc layers; auto is bfloat16 where the device has instructions for
    # it. In fine-tuning it is that of the products: weights and gradients are float32.
    precision: str = "auto"
    scales: tuple[int, ...] = (SINGLE_SCALE,)  # short sides in pixels
    long_side_limit: int = 6000  # pixels of a resized photograph: bounds the memory
    long_side_rounding: str = "nearest"  # to whole pixels; the release rounds up

    # Windows and pooling (sections 2.2 and 4.1, appendix A).
    parts: tuple[str, ...] = ("window",)  # of a window's feature, one after the other
    levels: tuple[int, ...] = DEFAULT_LEVELS
    projection: str = "release"
    scale_rule: str = "release"
    # Windows on the same cells are pooled once; the same after or, as in the release's mining,
    # before cells outside the map are moved to its nearest.
    distinct: str = "clamped"
    proposals: str = METHODS[0]
    max_windows: int = 3000  # per photograph
    min_window_side: float = 10.0  # pixels; the release has 20

    # What the SVMs take: pooled features or those of the fine-tuned fc layers (section 4.1).
    feature: str = "pool5"
    fc_width: int = 4096
    fc_rank: int = 0  # of fc6's weights where they were compressed after training; 0: whole

    # What scores windows: each class's SVM, or the softmax that the fc layers or the trunk were
    # tuned under, by the log of its odds; boxes are then moved by the layer that was tuned beside.
    scores: str = "svm"

    # Sides of boxes in the regression's targets: between their first and last pixel, as the
    # release measures them, or a pixel more.
    regression_inclusive: bool = False

    # Test time.
    promising: int = 0  # distinct windows that a pool5 model lets through to fc layers; 0: all
    score_threshold: float = -1.5
    nms_iou: float = 0.3
    max_detections: int = 100  # per class and photograph
    # Windows that score above vote_score are moved by the regression, pooled and scored again, so
    # many times less one; with 1 pass, as the paper and the release, boxes are moved only at last.
    passes: int = 3
    # Whether windows are pooled from the photograph's mirror image, too, and what is said of both
    # is averaged: for twice the work.
    mirror: bool = False
    # Windows that score above vote_score and overlap a box by vote_iou vote on it. The best on val;
    # the paper and the release have no vote.
    vote_iou: float | None = 0.5
    vote_score: float = -1.0
    # How sure a box is its voters tell, too, if there is a vote: its score rises by support times
    # the logarithm of 1 + the sum of how far those that overlap it by support_iou score above
    # vote_score.
    support: float = 0.15
    support_iou: float = 0.6

    seed: int = 0  # of the order of windows and, in training, of all chance

    def __post_init__(self) -> None:
        check_fields(self, _CHOICES, _BOUNDS)
        try:
            check_levels(self.levels)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if not self.scales or not all(16 <= s <= self.long_side_limit for s in self.scales):
            raise ConfigError(
                f"scales {self.scales}: expected short sides of 16 to {self.long_side_limit} pixels"
            )
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ConfigError(f"parts {self.parts}: expected some of {', '.join(PARTS)}")


@dataclass(frozen=True)
class TrainingConfig:
    """What only training needs; a saved model records it."""

    # What fresh fc layers start from: principal components of pooled features, or random weights.
    fc_start: str = "components"

    # Fine-tuning (section 4.1); 0 iterations: none. Each rate holds for its share of them.
    finetune_iterations: int = 0
    # Where the trunk is frozen, fc6 learns in the space of so many principal components of pooled
    # features, which are computed once a window: many times as fast. 0: in all directions.
    finetune_components: int = 0
    # The first of the trunk's layers that is tuned too: under the fc layers, or where the feature
    # is pool5 under a linear layer of its own.
    train_from: str = ""
    mirror_finetuning: bool = True
    # Whether pooled features are brought to mean 0 and like spread while the layers on them learn,
    # as can be undone afterwards: random layers learn so several times as fast.
    finetune_standardised: bool = False
    # Whether a layer that moves boxes learns beside the softmax, as in Fast R-CNN.
    finetune_boxes: bool = False
    finetune_positives: int = 32  # of a batch
    finetune_negatives: int = 96
    # How they are drawn: uniformly from the windows of all photographs, as the release does and as
    # was best on val, or so many of each of 16 photographs. Where the trunk is tuned each
    # photograph of a batch is a pass of the trunk, and they are two.
    finetune_sampling: str = "windows"
    finetune_iou: float = 0.5
    finetune_background: tuple[float, ...] = (0.1, 0.5)
    # As the release's first two: for layers that start from principal components and a few
    # thousand iterations. Random ones need ten times as much.
    finetune_rates: tuple[float, ...] = (1e-3, 1e-4)
    finetune_shares: tuple[float, ...] = (2 / 3, 1 / 3)
    finetune_warmup: int = 0  # iterations in which the rates rise from 0
    finetune_trunk_rate: float = 1.0  # factor on the rates, of the trunk's layers
    # What takes the steps: stochastic gradient descent with momentum, or AdamW, with which layers
    # that start at random learn in fewer steps, at lower rates.
    finetune_optimiser: str = "sgd"
    finetune_momentum: float = 0.9
    finetune_decay: float = 5e-4
    # Of fc8's biases: a factor on the rates, whether they decay, the background's first value. The
    # release has 2, False and 1.
    fc8_bias_rate: float = 1.0
    fc8_bias_decay: bool = True
    fc8_background_bias: float = 0.0

    # Features are multiplied by feature_norm / their mean L2 norm.
    feature_norm: float = 20.0
    norm_photographs: int = 200
    norm_windows: int = 200  # per photograph

    # SVMs (section 4.1).
    svm_c: float = 1e-3
    svm_tolerance: float = 0.01  # the release has 0.1, liblinear's own for this solver
    bias_multiplier: float = 10.0
    positive_weight: float = 2.0
    mirror_positives: bool = True  # neither the paper nor the release has them
    negative_iou: float = 0.3  # negatives of a class overlap each of its boxes by less
    difficult_negatives: bool = False  # difficult boxes are negatives of other classes: the release
    negative_overlap: float | None = 0.7  # a negative that overlaps another more is dropped
    hard_score: float = -1.0
    evict_score: float = -1.2
    retrain_after: int = 2000  # new hard negatives of a class

    # Box regression.
    regression_iou: float = 0.5
    regression_strict: bool = False  # whether windows overlap by more than that; the release's do
    # R-CNN has 1000, the release 4000, both for 5,011 photographs; the paper gives none. This is
    # the best on val for a tenth of them.
    regression_lambda: float = 30.0

    def __post_init__(self) -> None:
        check_fields(self, _CHOICES, _BOUNDS)
        _check_schedule(self)


@dataclass(frozen=True)
class RunConfig:
    """All constants of a training run: the model's and the training's."""

    model: Config = dataclasses.field(default_factory=Config)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        model, training = self.model, self.training
        for name in ("fc_rank", "promising"):
            if getattr(model, name):
                raise ConfigError(
                    f"{name} {getattr(model, name)}: expected 0, it is for trained models"
                )
        if training.train_from and model.extractor == "rcnn":
            raise ConfigError(
                f"train_from {training.train_from!r}: expected none with extractor rcnn, whose "
                "windows are computed once"
            )
        if training.train_from and any(PARTS[part].layer for part in model.parts):
            raise ConfigError(
                f"train_from {training.train_from!r}: expected none with parts of earlier layers, "
                f"as one of {', '.join(model.parts)} is"
            )
        if training.train_from and not training.finetune_iterations:
            raise ConfigError(
                f"train_from {training.train_from!r}: expected finetune_iterations above 0"
            )
        tunes = training.finetune_iterations > 0 and model.feature != "fc6"
        if model.scores == "softmax" and not (training.finetune_boxes and tunes):
            raise ConfigError(
                "scores 'softmax': expected feature fc7 or pool5, finetune_boxes and "
                "finetune_iterations above 0"
            )
        if training.finetune_standardised and training.finetune_components:
            raise ConfigError(
                "finetune_standardised: expected no finetune_components, which are standardised"
            )
        if training.finetune_iterations and model.feature == "pool5" and not training.train_from:
            raise ConfigError(
                "feature 'pool5': fine-tuning the fc layers does not change it; expected fc6, fc7 "
                "or a layer to train_from"
            )

    @property
    def has_fc(self) -> bool:
        """Whether there are fc layers; else SVMs, and a trunk that learns, see pooled features."""
        return self.model.feature != "pool5"


_CHOICES: dict[str, tuple[str, ...]] = {
    "preset": PRESETS,
    "extractor": EXTRACTORS,
    "precision": PRECISIONS,
    "scores": SCORES,
    "fc_start": FC_STARTS,
    "long_side_rounding": ROUNDINGS,
    "projection": RULES,
    "scale_rule": RULES,
    "proposals": METHODS,
    "distinct": DISTINCT,
    "feature": FEATURES,
    "finetune_sampling": SAMPLINGS,
    "finetune_optimiser": OPTIMISERS,
}

_TINY, _HUGE = 1e-12, 1e12  # finite and above zero: NaN and infinity are out of any bounds
_BOUNDS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("max_windows", "norm_photographs", "norm_windows"), (1, _HUGE)),
    "fc_width": (1, 65536),
    "min_window_side": (0, _HUGE),
    **dict.fromkeys(("fc_rank", "finetune_components"), (0, 65536)),
    "promising": (0, _HUGE),
    **dict.fromkeys(("finetune_iterations", "finetune_negatives"), (0, _HUGE)),
    "finetune_positives": (1, _HUGE),
    "finetune_warmup": (0, _HUGE),
    "finetune_trunk_rate": (0, _HUGE),
    "finetune_iou": (_TINY, 1),
    "finetune_momentum": (0, 1),
    "finetune_decay": (0, _HUGE),
    "fc8_bias_rate": (0, _HUGE),
    "fc8_background_bias": (-_HUGE, _HUGE),
    **dict.fromkeys(("retrain_after", "max_detections", "passes"), (1, _HUGE)),
    **dict.fromkeys(("feature_norm", "svm_c", "svm_tolerance"), (_TINY, _HUGE)),
    **dict.fromkeys(("bias_multiplier", "positive_weight"), (_TINY, _HUGE)),
    **dict.fromkeys(("negative_iou", "negative_overlap"), (_TINY, 1)),
    **dict.fromkeys(("regression_iou", "nms_iou", "vote_iou", "support_iou"), (_TINY, 1)),
    "support": (0, _HUGE),
    **dict.fromkeys(("hard_score", "evict_score"), (-_HUGE, _HUGE)),
    **dict.fromkeys(("score_threshold", "vote_score"), (-_HUGE, _HUGE)),
    "regression_lambda": (_TINY, _HUGE),
    "seed": (0, 2**32 - 1),
}


# All that the paper or its official release fixes, where it is not the default.
_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "backbone": "zf5_paper",
        "precision": "float32",
        "scales": PAPER_SCALES,
        "projection": "paper",
        "scale_rule": "paper",
        "proposals": "selective-search",
        "min_window_side": 20.0,
        "feature": "fc7",
        "fc_start": "random",
        "finetune_iterations": 300_000,
        "finetune_rates": (1e-4, 1e-5),
        "finetune_shares": (5 / 6, 1 / 6),
        "mirror_positives": False,
        "regression_lambda": 1000.0,
        "passes": 1,
        "vote_iou": None,
        "support": 0.0,
    },
    "release": {
        "backbone": "zf5",
        "precision": "float32",
        "scales": (480, 576, 688, 874, 1200),
        "long_side_rounding": "up",
        "distinct": "unclamped",
        "proposals": "selective-search",
        "min_window_side": 20.0,
        "feature": "fc7",
        "fc_start": "random",
        "finetune_iterations": 200_000,
        "finetune_rates": (1e-3, 1e-4, 1e-5),
        "finetune_shares": (0.15, 0.15, 0.7),
        "fc8_bias_rate": 2.0,
        "fc8_bias_decay": False,
        "fc8_background_bias": 1.0,
        "difficult_negatives": True,
        "negative_overlap": None,
        "hard_score": -1.0001,
        "svm_tolerance": 0.1,
        "mirror_positives": False,
        "regression_inclusive": True,
        "regression_strict": True,
        "regression_lambda": 4000.0,
        "passes": 1,
        "vote_iou": None,
        "support": 0.0,
    },
    # The trunk is frozen; fc layers, a softmax and boxes learn together in the space of principal
    # components, from large batches, and the softmax scores.
    "tuned-fc": {
        "feature": "fc7",
        "fc_width": 2048,
        "fc_start": "random",
        "scores": "softmax",
        **LOG_ODDS,
        "support": 0.0,  # the log-odds are the softmax's own
        "finetune_components": 2048,
        "finetune_optimiser": "adamw",
        "finetune_iterations": 1_400,
        "finetune_positives": 256,
        "finetune_negatives": 768,
        "finetune_rates": (1e-3, 3e-4, 1e-4),
        "finetune_shares": (0.5, 0.3, 0.2),
        "finetune_warmup": 300,
        "finetune_decay": 0.5,
        "finetune_boxes": True,
    },
    # The trunk's last layers learn under one linear layer on the pooled features, a softmax and
    # boxes; SVMs and regression then take the pooled features of what was learnt.
    "tuned-trunk": {
        "train_from": "layer3",
        "finetune_iterations": 6_000,
        "finetune_positives": 48,
        "finetune_negatives": 144,
        "finetune_rates": (2e-3, 5e-4, 1e-4),
        "finetune_shares": (0.5, 0.3, 0.2),
        "finetune_warmup": 300,
        "finetune_trunk_rate": 0.5,
        "finetune_standardised": True,
        "finetune_boxes": True,
        "mirror_finetuning": False,  # no photograph is seen more than a few times
    },
    # Girshick, Fast R-CNN (ICCV 2015): the trunk's last layers, a softmax and boxes learn together.
    # Iterations and rates are for fc layers that start at random.
    "fast-rcnn": {
        "feature": "fc7",
        "fc_width": 1024,
        "fc_start": "random",
        "scores": "softmax",
        **LOG_ODDS,
        "support": 0.0,  # the log-odds are the softmax's own
        "train_from": "layer3",
        "finetune_iterations": 10_000,
        "finetune_positives": 48,
        "finetune_negatives": 144,
        "finetune_rates": (1e-2, 1e-3),
        "finetune_warmup": 300,
        "finetune_trunk_rate": 0.1,
        "finetune_standardised": True,
        "finetune_boxes": True,
    },
}


ConfigType = TypeVar("ConfigType", Config, TrainingConfig)


def make_config(preset: str = "default", **changes: Any) -> Config:
    """Make the configuration of a model by a preset, with changes.

    Parameters
    ----------
    preset : str
        "default", "paper", "release", "tuned-fc", "tuned-trunk" or "fast-rcnn".
    **changes : Any
        Fields of a Config whose values are not to be the preset's.

    Returns
    -------
    Config
        Checked.

    Raises
    ------
    ConfigError
        For an unknown preset, key, type or value.

    Examples
    --------
    >>> make_config("paper").scales
    (480, 576, 688, 864, 1200)
    >>> config = make_config("release", scales=(688,))
    >>> config.scales, config.backbone
    ((688,), 'zf5')
    """
    return config_from_mapping({"preset": preset} | changes)


def make_training_config(preset: str = "default", **changes: Any) -> TrainingConfig:
    """Make the configuration of a training by a preset, with changes; as `make_config`."""
    return _build(TrainingConfig, preset, changes)


def make_run_config(preset: str = "default", **changes: Any) -> RunConfig:
    """Make the configuration of a training run by a preset, with changes of either half.

    Raises
    ------
    ConfigError
        For an unknown preset, key, type or value, and for halves that do not fit together.
    """
    model, training = split_values({"preset": preset} | changes)
    return RunConfig(config_from_mapping(model), make_training_config(preset, **training))


def parse_setting(text: str) -> tuple[str, Any]:
    """Parse "key=value" by the type of the key's field; tuples are joined by commas.

    Examples
    --------
    >>> parse_setting("scales=480,688")
    ('scales', (480, 688))
    >>> parse_setting("vote_iou=none")
    ('vote_iou', None)

    Raises
    ------
    ConfigError
        For an unknown key and a value of another type.
    """
    key, equals, value = text.partition("=")
    wanted = {**typing.get_type_hints(Config), **typing.get_type_hints(TrainingConfig)}.get(key)
    if not equals or wanted is None:
        raise ConfigError(f"{text!r}: expected key=value, key one of the configuration's")
    try:
        return key, _parse(value, wanted)
    except ValueError as error:
        name = getattr(wanted, "__name__", str(wanted))
        raise ConfigError(f"{key} {value!r}: expected {name}") from error


def change_test_time(config: Config, constants: dict[str, Any]) -> Config:
    """Change constants of test time, those that need no other training.

    Raises
    ------
    ConfigError
        For another constant, or a value out of bounds.
    """
    for name in constants:
        if name not in TEST_TIME:
            raise ConfigError(f"{name}: expected a constant of test time: {', '.join(TEST_TIME)}")
    return dataclasses.replace(config, **constants)


def read_settings(path: Path) -> dict[str, Any]:
    """Read keys and values from a json: plain ones, or those of a model's config.json.

    Raises
    ------
    ConfigError
        For a file that is no such json.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if "config" in values:
            values = {**values["config"], **values.get("training", {})}
        return {str(k): tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: expected a json of keys and values: {error}") from error


def split_values(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split values by key into a model's, unknown ones among them, and a training's."""
    trained = _name_fields(TrainingConfig)
    return (
        {key: value for key, value in values.items() if key not in trained},
        {key: value for key, value in values.items() if key in trained},
    )


def to_mapping(config: Config | TrainingConfig) -> dict[str, Any]:
    """Turn a configuration into what json can hold."""
    return dataclasses.asdict(config)


def config_from_mapping(values: dict[str, Any]) -> Config:
    """Make a model's configuration of what json held; keys that it lacks are the preset's.

    Raises
    ------
    ConfigError
        For unknown keys and wrong types.
    """
    return _build(Config, values.get("preset", "default"), values)


def _build(kind: type[ConfigType], preset: Any, values: dict[str, Any]) -> ConfigType:
    known = _name_fields(kind)
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r}: expected one of {', '.join(PRESETS)}")
    own = _PRESETS.get(preset, {})
    values = {key: value for key, value in own.items() if key in known} | values
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f"unknown key {unknown[0]!r}")
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return kind(**fields)


def _name_fields(kind: type[Config] | type[TrainingConfig]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def check_fields(
    config: Any, choices: dict[str, tuple[str, ...]], bounds: dict[str, tuple[float, float]]
) -> None:
    """Check every field's type, and its value where it is one of few or has bounds.

    Parameters
    ----------
    config : dataclass
        Frozen; integers become floats where these are wanted.
    choices : dict of str to tuple of str
        The values that a field may have.
    bounds : dict of str to (float, float)
        Least and greatest value of a field.

    Raises
    ------
    ConfigError
        For the first field that is wrong.
    """
    _check_types(config)
    for name, value in vars(config).items():
        known = choices.get(name)
        if known and value not in known:
            raise ConfigError(f"{name} {value!r}: expected one of {', '.join(known)}")
        least, most = bounds.get(name, (-_HUGE, _HUGE))
        if name in bounds and value is not None and not least <= value <= most:
            raise ConfigError(f"{name} {value}: expected a value from {least:g} to {most:g}")


def count_photographs(config: TrainingConfig) -> int:
    """Photographs from each of which an equal part of a fine-tuning batch is drawn; 1: from any."""
    if config.train_from:
        return PHOTOGRAPHS_PER_TUNED_BATCH
    return PHOTOGRAPHS_PER_BATCH if config.finetune_sampling == "photographs" else 1


def _check_schedule(config: TrainingConfig) -> None:
    count = count_photographs(config)
    for name in ("finetune_positives", "finetune_negatives"):
        if getattr(config, name) % count:
            raise ConfigError(
                f"{name} {getattr(config, name)}: expected a multiple of {count}, the photographs "
                "of a batch"
            )
    rates, shares = config.finetune_rates, config.finetune_shares
    if not rates or len(rates) != len(shares) or not all(0 < r < _HUGE for r in rates):
        raise ConfigError(
            f"finetune_rates {rates}: expected rates above 0, as many as finetune_shares {shares}"
        )
    if not all(s > 0 for s in shares) or not abs(sum(shares) - 1) < 1e-6:
        raise ConfigError(f"finetune_shares {shares}: expected shares above 0 that sum to 1")
    bounds = config.finetune_background
    if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] <= config.finetune_iou:
        raise ConfigError(
            f"finetune_background {bounds}: expected two overlaps, at most {config.finetune_iou}"
        )


def _check_types(config: Any) -> None:
    for name, wanted in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if type(value) is int and float in (wanted, *typing.get_args(wanted)):
            object.__setattr__(config, name, float(value))
        elif not _is_of(value, wanted):
            raise ConfigError(f"{name} {value!r}: expected {getattr(wanted, '__name__', wanted)}")


def _parse(text: str, wanted: Any) -> Any:
    if isinstance(wanted, types.UnionType):
        kinds = typing.get_args(wanted)
        if text.lower() == "none" and types.NoneType in kinds:
            return None
        return _parse(text, next(kind for kind in kinds if kind is not types.NoneType))
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        return tuple(_parse(part, item) for part in text.split(","))
    if wanted is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    return wanted(text)


def _is_of(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, types.UnionType):
        return any(_is_of(value, one) for one in typing.get_args(wanted))
    if typing.get_origin(wanted) is tuple:
        item = typing.get_args(wanted)[0]
        return isinstance(value, tuple) and all(_is_of(v, item) for v in value)
    return type(value) is wanted or (value is None and wanted is type(None))
