"""The detector: load, save, detect."""

from __future__ import annotations

import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from data import DEFAULT_MAX_SIDE, DataError, PhotoLike, as_photo, find_photographs
from eval import Detections
from proposals import ProposalSettings, propose
from spp_detect.backbones import build_backbone
from spp_detect.cascade import FirstStage
from spp_detect.config import Config, ConfigError, config_from_mapping, to_mapping
from spp_detect.extractors import make_extractor
from spp_detect.fc import FcLayers, build_fc
from spp_detect.features import Extractor, WindowFeatures, choose_device, multiply_rows
from spp_detect.files import write_json, write_tensors
from spp_detect.postprocess import Heads, ScoredWindows, select_detections
from spp_detect.prefetch import prepare_photos, search_windows

logger = logging.getLogger(__name__)

MODEL_FORMAT = "spp-detect model"
MODEL_VERSION = 1


class ModelError(ValueError):
    """A model folder that cannot be used; one line names the file and what was expected."""


class PhotoDetector(ABC):
    """What detects in photographs: a model, or several together.

    Attributes
    ----------
    config : the constants of test time.
    classes : names of the C classes.
    proposal_settings : how windows are proposed.
    """

    config: Config
    classes: tuple[str, ...]
    proposal_settings: ProposalSettings

    @abstractmethod
    def score_by_model(
        self, photo: NDArray[np.uint8], windows: NDArray[np.float32]
    ) -> list[ScoredWindows]:
        """Score windows, float32 (N, 4), of a photograph, uint8 (H, W, 3), by each model."""

    @overload
    def detect(
        self,
        photo: PhotoLike,
        windows: NDArray[np.float32] | None = None,
        *,
        bgr: bool = False,
        regress: bool = True,
        vote: bool = True,
    ) -> Detections: ...

    @overload
    def detect(
        self,
        photo: list[Any] | tuple[Any, ...],
        windows: Sequence[NDArray[np.float32]] | None = None,
        *,
        bgr: bool = False,
        regress: bool = True,
        vote: bool = True,
    ) -> list[Detections]: ...

    def detect(
        self,
        photo: PhotoLike | list[Any] | tuple[Any, ...],
        windows: Any = None,
        *,
        bgr: bool = False,
        regress: bool = True,
        vote: bool = True,
    ) -> Detections | list[Detections]:
        """Detect in one photograph, or in several.

        Parameters
        ----------
        photo : a path, a PIL image, or uint8 (H, W, 3) or grey (H, W); or a list of such.
        windows : float32 (N, 4) to score, in a list for a list of photographs; proposed by the
            configured method where None.
        bgr : whether arrays are blue, green, red, as OpenCV reads files, and not RGB.
        regress : whether boxes are moved by the box regression, as in the paper's "bb" rows.
        vote : whether the moved windows around a box then vote on it, where configured.

        Returns
        -------
        Detections, best first: at most `max_detections` of each class that score above
        `score_threshold`, after NMS; a list of them for a list of photographs.

        Raises
        ------
        DataError
            for a photograph that cannot be read, or anything else than a photograph.
        ValueError
            for lists of photographs and windows of different lengths.
        """
        if isinstance(photo, list | tuple):
            each = windows if windows is not None else [None] * len(photo)
            if len(each) != len(photo):
                raise ValueError(
                    f"{len(photo)} photographs, windows of {len(each)}: expected of each"
                )
            return [
                self.detect(one, its, bgr=bgr, regress=regress, vote=vote)
                for one, its in zip(photo, each, strict=True)
            ]
        photo = as_photo(photo, bgr=bgr)
        if windows is None:
            windows = propose(photo, self.proposal_settings)
        scored = self.score_by_model(photo, windows)
        return select_detections(scored, self.config, regress=regress, vote=vote)

    def detect_folder(
        self, folder: str | Path, max_side: int = DEFAULT_MAX_SIDE
    ) -> Iterator[tuple[Path, Detections]]:
        """Detect in every photograph of a folder.

        Yields
        ------
        The photograph's path and its Detections; one that cannot be read is logged as a warning.

        Raises
        ------
        DataError
            for a folder that is missing or holds no photograph.
        """
        for path, found in self.detect_paths(find_photographs(folder), max_side):
            if isinstance(found, DataError):
                logger.warning("skipped: %s", found)
            else:
                yield path, found

    def detect_paths(
        self, paths: Sequence[Path], max_side: int = DEFAULT_MAX_SIDE
    ) -> Iterator[tuple[Path, Detections | DataError]]:
        """Detect in photographs, while windows of the next ones are proposed.

        Yields
        ------
        Each path with its Detections, or with the DataError of one that cannot be read.
        """
        source = search_windows(self.proposal_settings)
        for path, prepared in prepare_photos(paths, source, max_side):
            if isinstance(prepared, DataError):
                yield path, prepared
            else:
                yield path, self.detect(*prepared)


class Detector(PhotoDetector):
    """SPP-net: one pass of convolutions, pooled windows, SVMs, box regression, NMS.

    Parameters
    ----------
    config : the constants it was trained with.
    classes : names of the C classes.
    extractor : trunk and pyramid, on a device.
    heads : SVMs and box regressors.
    fc : the fc layers between pooled features and SVMs; None for a pool5 model.
    first : chooses the windows that the fc layers see; None where they see all.
    """

    def __init__(
        self,
        config: Config,
        classes: tuple[str, ...],
        extractor: Extractor,
        heads: Heads,
        fc: FcLayers | None = None,
        first: FirstStage | None = None,
    ) -> None:
        self.config = config
        self.classes = classes
        self.extractor = extractor
        self.heads = heads.to(extractor.device)
        self.fc = fc.eval().to(extractor.device) if fc is not None else None
        self.first = first.to(extractor.device) if first is not None else None
        self.proposal_settings = make_proposal_settings(config)

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto") -> Detector:
        """Load a model folder.

        Parameters
        ----------
        folder : holds model.safetensors and config.json.
        device : auto, cpu or cuda.

        Raises
        ------
        ModelError
            for a folder that is missing, incomplete, damaged, of another version, or whose
            tensors have other shapes than its configuration asks for.
        """
        folder = Path(folder)
        config, classes = _read_description(folder)
        tensors = _read_tensors(folder / "model.safetensors")
        try:
            backbone = build_backbone(config.backbone)
        except ConfigError as error:
            raise ModelError(f"{folder / 'config.json'}: {error}") from error
        extractor = make_extractor(backbone, config, choose_device(device))
        expected = {f"trunk.{k}": v.shape for k, v in backbone.layers.state_dict().items()}
        fc = build_fc(config, extractor.length)
        expected |= {f"fc.{k}": v.shape for k, v in fc.state_dict().items()} if fc else {}
        expected |= _head_shapes(len(classes), extractor.length, fc.length if fc else None)
        if config.promising:
            shapes = (len(classes), extractor.length), (len(classes),)
            expected |= {"first.coef": shapes[0], "first.intercept": shapes[1]}
        _check_shapes(folder / "model.safetensors", tensors, expected)
        trunk = {k.removeprefix("trunk."): v for k, v in tensors.items() if k.startswith("trunk.")}
        backbone.layers.load_state_dict(trunk)
        if fc is not None:
            fc.load_state_dict({k: tensors[f"fc.{k}"] for k in fc.state_dict()})
        heads = Heads(**{name: tensors[f"heads.{name}"] for name in Heads.__dataclass_fields__})
        first = None
        if config.promising:
            first = FirstStage(tensors["first.coef"], tensors["first.intercept"])
        return cls(config, classes, extractor, heads, fc, first)

    def save(self, folder: str | Path) -> None:
        """Save to a folder: the tensors first, config.json last, so that it marks a whole model."""
        folder = Path(folder)
        trunk = self.extractor.backbone.layers.state_dict()
        tensors = {f"trunk.{name}": tensor for name, tensor in trunk.items()}
        tensors |= {f"heads.{name}": tensor for name, tensor in vars(self.heads).items()}
        if self.fc is not None:
            tensors |= {f"fc.{name}": tensor for name, tensor in self.fc.state_dict().items()}
        if self.first is not None:
            tensors |= {f"first.{name}": tensor for name, tensor in vars(self.first).items()}
        write_tensors(folder / "model.safetensors", tensors)
        description = {
            "format": MODEL_FORMAT,
            "version": MODEL_VERSION,
            "classes": list(self.classes),
            "config": to_mapping(self.config),
        }
        write_json(folder / "config.json", description)

    def compress(self, rank: int) -> Detector:
        """Make a faster detector, nearly the same: fc6 by products of a lower rank.

        Raises
        ------
        ModelError
            for a model without fc layers, compressed before, or of no higher rank.
        """
        if self.fc is None or self.config.fc_rank:
            found = f"fc6 of rank {self.config.fc_rank}" if self.fc else "no fc layers"
            raise ModelError(f"a model with {found}: expected one with a whole fc6 to compress")
        whole = min(self.config.fc_width, self.extractor.length)
        if not 1 <= rank < whole:
            raise ModelError(f"rank {rank}: expected at least 1 and less than fc6's {whole}")
        config = dataclasses.replace(self.config, fc_rank=rank)
        fc = self.fc.factorise(rank)
        return Detector(config, self.classes, self.extractor, self.heads, fc, self.first)

    def cascade(self, cheap: Detector, promising: int) -> Detector:
        """Make a faster detector, nearly the same: its fc layers see only promising windows.

        Parameters
        ----------
        cheap : a pool5 model of the same trunk and classes, whose SVMs look at all windows first.
        promising : distinct windows of a photograph that they let through.

        Raises
        ------
        ModelError
            for models that do not fit together.
        """
        if self.fc is None or cheap.fc is not None:
            kinds = f"{self.config.feature} after {cheap.config.feature}"
            raise ModelError(f"a cascade of {kinds}: expected fc6 or fc7 after pool5")
        ours, other = (one.extractor.backbone.layers.state_dict() for one in (self, cheap))
        same = ours.keys() == other.keys() and all(torch.equal(ours[k], other[k]) for k in ours)
        if not same or self.classes != cheap.classes or self.config.levels != cheap.config.levels:
            raise ModelError("a cascade of two models: expected the same trunk, levels and classes")
        config = dataclasses.replace(self.config, promising=promising)
        first = FirstStage(cheap.heads.svm_coef, cheap.heads.svm_intercept)
        return Detector(config, self.classes, self.extractor, self.heads, self.fc, first)

    def score_by_model(
        self, photo: NDArray[np.uint8], windows: NDArray[np.float32]
    ) -> list[ScoredWindows]:
        """Score windows by this one model; see `PhotoDetector.score_by_model`."""
        return [self.score(photo, windows)]

    def score(self, photo: NDArray[np.uint8], windows: NDArray[np.float32]) -> ScoredWindows:
        """Score windows, float32 (N, 4), of a photograph, uint8 (H, W, 3), by the SVMs."""
        maps = self.extractor.compute_maps(photo)
        pooled, windows = self.choose(self.extractor.pool(maps, windows), windows)
        return self.classify(pooled, self.describe(pooled), windows, maps.size)

    def choose(
        self, pooled: WindowFeatures, windows: NDArray[np.float32]
    ) -> tuple[WindowFeatures, NDArray[np.float32]]:
        """Keep what the first stage of a cascade lets through: all where there is none."""
        if self.first is None:
            return pooled, windows
        return self.first.choose(pooled, windows, self.config.promising)

    def describe(self, pooled: WindowFeatures) -> torch.Tensor:
        """Apply the fc layers to distinct windows: (U, D) to what the SVMs take, (U, F)."""
        features = pooled.features
        return features if self.fc is None else self.fc.describe(features, self.config.precision)

    @torch.inference_mode()
    def classify(
        self,
        pooled: WindowFeatures,
        described: torch.Tensor,
        windows: NDArray[np.float32],
        size: tuple[int, int],
    ) -> ScoredWindows:
        """Apply the SVMs.

        Parameters
        ----------
        pooled : the windows' pooled features, which the regression takes.
        described : float (U, F), what the SVMs take.
        windows : float32 (N, 4).
        size : (width, height) of the photograph, to which boxes are clipped.
        """
        device = self.extractor.device
        inverse = torch.from_numpy(pooled.inverse).to(device)
        scores = multiply_rows(described, self.heads.svm_coef.T) + self.heads.svm_intercept
        boxes = torch.from_numpy(windows).to(device)
        return ScoredWindows(boxes, scores[inverse], pooled.features, inverse, size, self.heads)


def make_proposal_settings(config: Config) -> ProposalSettings:
    """The proposal room's settings of a configuration."""
    return ProposalSettings(
        method=config.proposals, max_windows=config.max_windows, seed=config.seed
    )


def _read_description(folder: Path) -> tuple[Config, tuple[str, ...]]:
    path = folder / "config.json"
    if not folder.is_dir():
        raise ModelError(f"{folder}: no such model folder")
    if not path.is_file():
        unfinished = (folder / "run.json").is_file()
        hint = "; its training is not finished: train --resume" if unfinished else ""
        raise ModelError(f"{folder}: not a whole model folder, config.json is missing{hint}")
    try:
        description: Any = json.loads(path.read_text(encoding="utf-8"))
        if description.get("format") != MODEL_FORMAT:
            raise ModelError(f"{path}: expected a file of format {MODEL_FORMAT!r}")
        if description.get("version") != MODEL_VERSION:
            raise ModelError(
                f"{path}: model version {description.get('version')}, expected {MODEL_VERSION}"
            )
        config = config_from_mapping(description["config"])
        classes = tuple(str(name) for name in description["classes"])
    except ModelError:
        raise
    except (OSError, ValueError, AttributeError, KeyError, TypeError, ConfigError) as error:
        raise ModelError(f"{path}: not a model's description: {error}") from error
    return config, classes


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelError(f"{path}: missing, the model folder is not whole")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a whole safetensors file: {error}") from error


def _head_shapes(classes: int, length: int, described: int | None) -> dict[str, tuple[int, ...]]:
    return {
        "heads.svm_coef": (classes, described or length),
        "heads.svm_intercept": (classes,),
        "heads.regression_coef": (classes, length, 4),
        "heads.regression_intercept": (classes, 4),
    }


def _check_shapes(path: Path, tensors: dict[str, torch.Tensor], expected: dict[str, Any]) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"{path}: tensor {name} is missing")
        if tuple(tensors[name].shape) != tuple(shape):
            raise ModelError(
                f"{path}: tensor {name} has shape {tuple(tensors[name].shape)}, "
                f"expected {tuple(shape)}"
            )
