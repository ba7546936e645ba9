"""The detector: load, save, detect."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data import (
    DEFAULT_MAX_SIDE,
    DataError,
    MemoryShortageError,
    PhotoLike,
    as_photo,
    find_photographs,
)
from eval import Detections
from proposals import ProposalSettings, propose
from spp_detect.backbones import build_backbone, load_weights, split_backbone
from spp_detect.calibration import Calibration
from spp_detect.cascade import FirstStage
from spp_detect.config import Config, ConfigError, TrainingConfig, change_test_time, to_mapping
from spp_detect.extractors import make_extractor
from spp_detect.fc import FcLayers, apply_fc, build_fc
from spp_detect.features import Extractor, PhotoFeatures, WindowFeatures, choose_device, send
from spp_detect.fixed_shapes import Found, Promising, collect, find_promising, move, select
from spp_detect.heads import Heads
from spp_detect.mirror import BothSides, mirror_boxes, mirror_photo
from spp_detect.model_folder import (
    Description,
    ModelError,
    load_tensors,
    read_description,
    save_model,
)
from spp_detect.out_of_memory import ERRORS, is_out_of_memory, tell_out_of_memory
from spp_detect.postprocess import ScoredWindows, select_detections
from spp_detect.prefetch import prepare_photos, search_windows
from spp_detect.public_trunk import MOST_DIFFERENCE, PublicTrunk
from spp_detect.ready_models import find_model
from spp_detect.spp import PhotoMaps, SppExtractor
from spp_detect.watch import Watch, unwatched

logger = logging.getLogger(__name__)

PUBLIC_WEIGHTS = "imagenet"  # what a packed model's trunk is loaded from
LEAST_SCORE, LEAST_SCORE_RAISED = -0.8, -0.4  # where votes leave scores as they are, or raise them


class Pending(Protocol):
    """A photograph in which detection has begun."""

    def read(self) -> Detections:
        """Wait until it is done: best first."""


@dataclasses.dataclass(frozen=True)
class Done:
    """A photograph in which detection is done."""

    found: Detections

    def read(self) -> Detections:
        """Give what was found."""
        return self.found


class PhotoDetector(ABC):
    """What detects in photographs: a model, or several together.

    Attributes
    ----------
    config : Config
        The constants of test time.
    classes : tuple of str
        Names of the C classes.
    proposal_settings : ProposalSettings
        How windows are proposed.
    calibration : Calibration, optional
        What scores mean, where that is known.
    """

    config: Config
    classes: tuple[str, ...]
    proposal_settings: ProposalSettings
    calibration: Calibration | None
    ahead = 0  # photographs that are begun before one is read

    @property
    def raises_scores(self) -> bool:
        """Whether the votes around a box raise its score."""
        return self.config.support > 0 and self.config.vote_iou is not None

    @property
    def least_score(self) -> float:
        """What the command line shows detections from.

        Of an SVM's scores, that of the best mean F1 on val; of log-odds, a probability of 0.4, or
        of 0.31 where votes do not raise them.
        """
        return LEAST_SCORE_RAISED if self.raises_scores else LEAST_SCORE

    @abstractmethod
    def score_passes(
        self, photo: NDArray[np.uint8], windows: NDArray[np.float32], passes: int
    ) -> list[ScoredWindows]:
        """Score windows, float32 (N, 4), of a photograph, uint8 (H, W, 3), by each model.

        In each pass after the first, windows that are promising for a class are moved by its
        regression, pooled and scored again, as in MR-CNN.
        """

    def find_probabilities(self, found: Detections) -> NDArray[np.float32] | None:
        """Find how likely it is that each detection is right: float32 (N,).

        Parameters
        ----------
        found : Detections
            Of `detect`.

        Returns
        -------
        float32 (N,), or None
            None for a model that does not know what its scores mean: one of an earlier version,
            R-CNN, or one trained on few photographs.
        """
        if self.calibration is None:
            return None
        return self.calibration.find_probabilities(found, raised=self.raises_scores)

    @abstractmethod
    def identify(self) -> dict[str, Any]:
        """Tell what decides what is found: constants, classes, a hash of all weights."""

    @abstractmethod
    def change(self, **constants: Any) -> PhotoDetector:
        """Make the same detector with other constants of test time.

        Parameters
        ----------
        **constants : Any
            Those of `config.TEST_TIME`, as ``passes=1`` or ``vote_iou=None``.

        Raises
        ------
        ConfigError
            For a constant that only training can change, or a value out of bounds.
        """

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
        photo : path, PIL image or array, or a list of such
            Arrays are uint8 (H, W, 3) or grey (H, W).
        windows : float32 (N, 4), or a list of such, optional
            To score, x1 y1 x2 y2 in half-open pixels; in a list for a list of photographs. By
            default the configured method proposes them.
        bgr : bool
            Whether arrays are blue, green, red, as OpenCV reads files, and not RGB.
        regress : bool
            Whether boxes are moved by the box regression, as in the paper's "bb" rows, and scored
            again where they lie then, `config.passes` less one times.
        vote : bool
            Whether the moved windows around a box then vote on where it lies and raise its score,
            where configured.

        Returns
        -------
        Detections, or a list of such
            Best first: at most `max_detections` of each class that score above `score_threshold`,
            after NMS. A list for a list of photographs.

        Raises
        ------
        DataError
            For a photograph that cannot be read, or anything else than a photograph.
        ValueError
            For lists of photographs and windows of different lengths.

        Examples
        --------
        >>> from spp_detect import Detector
        >>> detector = Detector.load("runs/animals")
        >>> found = detector.detect("photographs/dog.jpg")
        >>> detector.classes[found[0].label]
        'dog'

        Windows of one's own, and several photographs:

        >>> windows = np.array([[10, 20, 70, 90], [90, 30, 150, 110]], np.float32)
        >>> for box, score, label in detector.detect("photographs/dog.jpg", windows):
        ...     print(detector.classes[label], round(float(score), 2), box.tolist())
        dog 0.76 [10.0, 20.0, 70.0, 90.0]
        dog 0.76 [90.0, 30.0, 150.0, 110.0]
        >>> both = detector.detect(["photographs/dog.jpg", "photographs/grass.jpg"])
        >>> len(both)
        2
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
        windows = np.asarray(windows, np.float32).reshape(-1, 4)
        return self.begin(photo, windows, regress=regress, vote=vote).read()

    def begin(
        self,
        photo: NDArray[np.uint8],
        windows: NDArray[np.float32],
        *,
        regress: bool = True,
        vote: bool = True,
    ) -> Pending:
        """Begin to detect in a photograph; on a GPU that goes on beside what the caller does next.

        Parameters
        ----------
        photo : uint8 (H, W, 3)
            RGB.
        windows : float32 (N, 4)
            In its pixels.
        regress, vote : bool
            As of `detect`.

        Returns
        -------
        Pending
            Whose `read` gives what `detect` does.
        """
        scored = self.score_passes(photo, windows, self.config.passes if regress else 1)
        return Done(select_detections(scored, self.config, regress=regress, vote=vote))

    def detect_folder(
        self, folder: str | Path, max_side: int = DEFAULT_MAX_SIDE
    ) -> Iterator[tuple[Path, Detections]]:
        """Detect in every photograph of a folder.

        Parameters
        ----------
        folder : str or Path
            Photographs, in folders of any depth.
        max_side : int
            Largest side of a photograph in pixels.

        Yields
        ------
        tuple of Path and Detections
            Of each photograph; one that cannot be read is logged as a warning.

        Raises
        ------
        DataError
            For a folder that is missing or holds no photograph.
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

        Parameters
        ----------
        paths : sequence of Path
            The photographs' files.
        max_side : int
            Largest side of a photograph in pixels.

        Yields
        ------
        tuple of Path and Detections, or of Path and DataError
            The error is that of a photograph that cannot be read, or for which the memory does not
            suffice: such come last, when each has been tried again with nothing beside it.
        """
        starved = []
        for path, found in self._detect_ahead(paths, max_side):
            if isinstance(found, MemoryShortageError):
                starved.append(path)
            else:
                yield path, found
        for path in starved:
            yield from self._detect_ahead([path], max_side)

    def _detect_ahead(
        self, paths: Sequence[Path], max_side: int
    ) -> Iterator[tuple[Path, Detections | DataError]]:
        source = search_windows(self.proposal_settings)
        begun: deque[tuple[Path, Pending | DataError]] = deque()
        for path, prepared in prepare_photos(paths, source, max_side):
            if isinstance(prepared, DataError):
                begun.append((path, prepared))
            else:
                begun.append((path, self._begin_or_tell(path, *prepared)))
            if len(begun) > self.ahead:
                yield _finish(*begun.popleft())
        for path, pending in begun:
            yield _finish(path, pending)

    def _begin_or_tell(
        self, path: Path, photo: NDArray[np.uint8], windows: NDArray[np.float32]
    ) -> Pending | DataError:
        """Begin to detect in a photograph; the error is one of memory."""
        try:
            return self.begin(photo, windows)
        except ERRORS as error:
            if not is_out_of_memory(error):
                raise
            return tell_out_of_memory(path, photo)


class Detector(PhotoDetector):
    """SPP-net: one pass of convolutions, pooled windows, SVMs, box regression, NMS.

    Parameters
    ----------
    config : Config
        The constants it works with.
    classes : tuple of str
        Names of the C classes.
    extractor : Extractor
        Trunk and pyramid, on a device.
    heads : Heads
        SVMs and box regressors.
    fc : FcLayers, optional
        The fc layers between pooled features and SVMs; None for a pool5 model.
    first : FirstStage, optional
        Chooses the windows that the fc layers see; None where they see all.
    training : TrainingConfig, optional
        How it was trained, for the record.
    calibration : Calibration, optional
        What its SVMs' scores mean, where that is known.

    Examples
    --------
    >>> detector = Detector.load("runs/animals")
    >>> detector.classes
    ('cat', 'dog')
    >>> for path, found in detector.detect_folder("photographs"):
    ...     print(path.name, detector.classes[found[0].label])
    dog.jpg dog
    grass.jpg dog
    """

    def __init__(
        self,
        config: Config,
        classes: tuple[str, ...],
        extractor: Extractor,
        heads: Heads,
        fc: FcLayers | None = None,
        first: FirstStage | None = None,
        training: TrainingConfig | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.config = config
        self.classes = classes
        self.extractor = extractor
        self.heads = heads.to(extractor.device)
        self.fc = fc.eval().to(extractor.device) if fc is not None else None
        self.first = first.to(extractor.device) if first is not None else None
        self.training = training or TrainingConfig()
        if heads.is_softmax:
            calibration = Calibration.identity()
        self.calibration = calibration.to(extractor.device) if calibration is not None else None
        self.proposal_settings = make_proposal_settings(config)
        self.ahead = int(self.in_fixed_shapes)

    @classmethod
    def load(cls, model: str | Path, device: str = "auto", weights: str | None = None) -> Detector:
        """Load a model folder, or a ready model by its name.

        Parameters
        ----------
        model : str or Path
            A folder that holds model.safetensors and config.json, or a name that
            `spp-detect models` lists, as "voc2007".
        device : str
            auto, cpu or cuda.
        weights : str, optional
            Of a packed model's trunk: "imagenet", torchvision's download, which is the default, or
            a .safetensors or .pth file.

        Raises
        ------
        ModelError
            For a folder that is missing, incomplete, damaged, of another version, or whose
            tensors have other shapes than its configuration asks for; for weights of another trunk
            than the packed model's, or weights for a model that has its own.
        WeightsError
            For weights that cannot be had or read.

        Examples
        --------
        >>> detector = Detector.load("runs/animals", device="cpu")
        >>> detector.config.backbone
        'small5'
        """
        folder = find_model(model)
        description = read_description(folder)
        config, classes = description.config, description.classes
        try:
            backbone = build_backbone(config.backbone)
            extractor = make_extractor(backbone, config, choose_device(device))
        except ConfigError as error:
            raise ModelError(f"{folder / 'config.json'}: {error}") from error
        fc = build_fc(config, extractor.length)
        described = fc.length if fc else extractor.length
        softmax = config.scores == "softmax"
        heads = Heads.empty(len(classes), extractor.length, described, softmax=softmax)
        first = FirstStage.empty(len(classes), extractor.length) if config.promising else None
        known = Calibration.identity() if description.calibrated else None
        detector = cls(config, classes, extractor, heads, fc, first, description.training, known)
        if description.public_trunk:
            detector._load_packed(folder, weights or description.public_trunk)
        elif weights:
            raise ModelError(f"{folder}: has its own trunk; --weights is for packed models")
        else:
            load_tensors(folder, detector._modules())
        return detector

    def pack(self, folder: str | Path) -> None:
        """Save without the trunk, whose weights everyone can have, and in half precision.

        Of a trunk that was tuned the layers that learnt are kept.

        Parameters
        ----------
        folder : str or Path
            A model folder to make, of a few MB; `load` finds the trunk's weights elsewhere and
            checks them.

        Raises
        ------
        ModelError
            For a model whose trunk never had public weights.
        """
        if self.config.weights == "none":
            raise ModelError(
                "its trunk is its own: expected one with public weights to pack without"
            )
        if self.config.weights != PUBLIC_WEIGHTS:
            logger.warning(
                "packed as if its trunk's weights, %s, were torchvision's; should they compute "
                "anything else, loading it with torchvision's is refused",
                self.config.weights,
            )
        modules = copy.deepcopy(self._without_public()).half()
        modules["public_trunk"] = PublicTrunk.of(self.extractor.backbone)
        description = dataclasses.replace(self._describe(), public_trunk=PUBLIC_WEIGHTS)
        save_model(Path(folder), modules, description)

    def save(self, folder: str | Path) -> None:
        """Save to a folder, config.json last, so that it marks a whole model."""
        save_model(Path(folder), self._modules(), self._describe())

    def identify(self) -> dict[str, Any]:
        """Tell what decides what is found; see `PhotoDetector.identify`."""
        digest = hashlib.sha256()
        for name, tensor in self._modules().state_dict().items():
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        config = to_mapping(self.config)
        return {"config": config, "classes": [*self.classes], "weights": digest.hexdigest()}

    def change(self, **constants: Any) -> Detector:
        """Make the same detector with other constants of test time; see `PhotoDetector.change`."""
        return self._change(change_test_time(self.config, constants))

    def compress(self, rank: int) -> Detector:
        """Make a faster detector, nearly the same: fc6 by products of a lower rank.

        Raises
        ------
        ModelError
            For a model without fc layers, compressed before, or of no higher rank.
        """
        if self.fc is None or self.config.fc_rank:
            found = f"fc6 of rank {self.config.fc_rank}" if self.fc else "no fc layers"
            raise ModelError(f"a model with {found}: expected one with a whole fc6 to compress")
        whole = min(self.config.fc_width, self.extractor.length)
        if not 1 <= rank < whole:
            raise ModelError(f"rank {rank}: expected at least 1 and less than fc6's {whole}")
        config = dataclasses.replace(self.config, fc_rank=rank)
        return self._change(config, fc=self.fc.factorise(rank))

    def cascade(self, cheap: Detector, promising: int) -> Detector:
        """Make a faster detector, nearly the same: its fc layers see only promising windows.

        Parameters
        ----------
        cheap : Detector
            A pool5 model of the same trunk and classes, whose SVMs look at all windows first.
        promising : int
            Distinct windows of a photograph that they let through.

        Raises
        ------
        ModelError
            For models that do not fit together.
        """
        if self.fc is None or cheap.fc is not None:
            kinds = f"{self.config.feature} after {cheap.config.feature}"
            raise ModelError(f"a cascade of {kinds}: expected fc6 or fc7 after pool5")
        ours, other = (one.extractor.backbone.layers.state_dict() for one in (self, cheap))
        same = ours.keys() == other.keys() and all(torch.equal(ours[k], other[k]) for k in ours)
        same = same and (self.config.levels, self.config.parts) == (
            cheap.config.levels,
            cheap.config.parts,
        )
        if not same or self.classes != cheap.classes:
            raise ModelError("a cascade of two models: expected the same trunk, levels and classes")
        first = FirstStage(cheap.heads.svm_coef, cheap.heads.svm_intercept)
        return self._change(dataclasses.replace(self.config, promising=promising), first=first)

    def let_through(self, promising: int) -> Detector:
        """Make the same cascade with another number of promising windows; 0 for all."""
        return self._change(dataclasses.replace(self.config, promising=promising))

    def with_heads(
        self, classes: tuple[str, ...], heads: Heads, calibration: Calibration | None
    ) -> Detector:
        """Make a detector of other classes on the same features.

        Raises
        ------
        ModelError
            For a cascade, whose first stage is of its own classes.
        """
        if self.first is not None:
            raise ModelError("a cascade: expected the model that it was made of")
        parts = self.extractor, heads, self.fc
        return Detector(
            self.config, classes, *parts, training=self.training, calibration=calibration
        )

    @property
    def in_fixed_shapes(self) -> bool:
        """Whether it detects as `fixed_shapes` does: on a GPU, but for cascades and more parts."""
        return (
            self.extractor.device.type == "cuda"
            and isinstance(self.extractor, SppExtractor)
            and self.config.parts == ("window",)
            and not self.config.promising
        )

    def begin(
        self,
        photo: NDArray[np.uint8],
        windows: NDArray[np.float32],
        *,
        regress: bool = True,
        vote: bool = True,
    ) -> Pending:
        """Begin to detect in a photograph; see `PhotoDetector.begin`."""
        if not self.in_fixed_shapes:
            return super().begin(photo, windows, regress=regress, vote=vote)
        return Found.send(self.find_all(photo, windows, regress=regress, vote=vote))

    @torch.inference_mode()
    def find_all(
        self,
        photo: NDArray[np.uint8],
        windows: NDArray[np.float32],
        *,
        regress: bool = True,
        vote: bool = True,
    ) -> torch.Tensor:
        """Detect without waiting for the device: float32 (C, K, 5) as of `fixed_shapes.select`."""
        config = self.config
        features = self.compute_maps(photo)
        first = scored = self._score_all(features.pool(windows), unwatched)
        passes: list[tuple[ScoredWindows, Promising]] = []
        promising = find_promising(first, config.vote_score, config.max_windows)
        for _ in range(config.passes - 1 if regress else 0):
            boxes = move(scored, promising)
            scored = self._score_boxes(features, boxes)
            passes.append((scored, promising))
            promising = promising._replace(rows=torch.arange(len(boxes), device=boxes.device))
        candidates = collect(first, passes, moved=regress and config.passes == 1)
        voting = regress and vote and config.vote_iou is not None
        return select(candidates, config, voting=voting)

    def _score_boxes(self, features: PhotoFeatures, boxes: torch.Tensor) -> ScoredWindows:
        """Score boxes that lie on the device, each pooled by itself."""
        if isinstance(features, BothSides):
            own = self._score_boxes(features.own, boxes)
            mirrored = mirror_boxes(boxes, features.size[0])
            return own.with_mirrored(self._score_boxes(features.mirrored, mirrored))
        assert isinstance(features, PhotoMaps)
        pooled = features.pool_boxes(boxes)
        inverse = torch.arange(len(boxes), device=boxes.device)
        return self._score(pooled, boxes, inverse, features.size, unwatched)

    def compute_maps(self, photo: NDArray[np.uint8], watch: Watch = unwatched) -> PhotoFeatures:
        """Do what is done once for a photograph, uint8 RGB (H, W, 3); its windows may be pooled.

        With the constant `mirror` that is done for its mirror image, too.
        """
        features = self.extractor.compute_maps(photo, watch)
        if not self.config.mirror:
            return features
        mirrored = self.extractor.compute_maps(mirror_photo(photo), watch)
        return BothSides(features.size, features, mirrored)

    def score_passes(
        self,
        photo: NDArray[np.uint8],
        windows: NDArray[np.float32],
        passes: int,
        watch: Watch = unwatched,
    ) -> list[ScoredWindows]:
        """Score windows by this one model; see `PhotoDetector.score_passes`."""
        features = self.compute_maps(photo, watch)
        first = self.score_pooled(features.pool(windows, watch), watch)
        return [first, *self.score_moved(features, first, passes - 1, watch)]

    def score_moved(
        self, features: PhotoFeatures, first: ScoredWindows, count: int, watch: Watch = unwatched
    ) -> Iterator[ScoredWindows]:
        """Move windows that are promising for a class and score them there, so many times.

        Parameters
        ----------
        features : PhotoFeatures
            Of the photograph.
        first : ScoredWindows
            Its proposed windows.
        count : int
            How often they are moved.
        watch : Watch
            As of `score`.

        Yields
        ------
        ScoredWindows
            The moved windows, each with the score of one class only.
        """
        scored = first
        most = self.config.promising or self.config.max_windows
        rows, classes = first.find_promising(self.config.vote_score, most)
        for _ in range(count if len(rows) else 0):
            with watch("classification"):
                moved = scored.move(rows, classes)
                # What was moved out of the photograph has no area left: it stays where it was.
                lost = (moved[:, 2:] <= moved[:, :2]).any(axis=1)
                moved[lost] = scored.boxes.cpu().numpy()[rows[lost]]
            scored = self._score_all(features.pool(moved, watch), watch).restrict(classes)
            rows = np.arange(len(classes))
            yield scored

    def score(
        self, photo: NDArray[np.uint8], windows: NDArray[np.float32], watch: Watch = unwatched
    ) -> ScoredWindows:
        """Score windows by the SVMs: maps, pooling, fc layers, SVMs (section 4.1).

        Parameters
        ----------
        photo : uint8 (H, W, 3)
            RGB.
        windows : float32 (N, 4)
            In pixels of the photograph.
        watch : Watch
            Given the stages' names one after the other: conv, pooling, fc, classification.
        """
        return self.score_pooled(self.pool(photo, windows, watch), watch)

    def pool(
        self, photo: NDArray[np.uint8], windows: NDArray[np.float32], watch: Watch = unwatched
    ) -> WindowFeatures:
        """Pool windows, the first half of `score`, for other models of the same trunk to score."""
        return self.compute_maps(photo, watch).pool(windows, watch)

    @torch.inference_mode()
    def score_pooled(self, pooled: WindowFeatures, watch: Watch = unwatched) -> ScoredWindows:
        """Score pooled windows, the second half of `score`."""
        if self.first is not None and self.config.promising:
            with watch("fc"):
                pooled = self.first.choose(pooled, self.config.promising)
        return self._score_all(pooled, watch)

    @torch.inference_mode()
    def _score_all(self, pooled: WindowFeatures, watch: Watch) -> ScoredWindows:
        """Score pooled windows whose order and number stay."""
        device = self.extractor.device
        inverse = send(torch.from_numpy(pooled.inverse), device)
        boxes = send(torch.from_numpy(pooled.windows), device)
        scored = self._score(pooled.features, boxes, inverse, pooled.size, watch)
        if pooled.mirrored is None:
            return scored
        return scored.with_mirrored(self._score_all(pooled.mirrored, watch))

    def _score(
        self,
        features: torch.Tensor,
        boxes: torch.Tensor,
        inverse: torch.Tensor,
        size: tuple[int, int],
        watch: Watch,
    ) -> ScoredWindows:
        """Score boxes, float32 (N, 4), by the rows (U, D) of their features."""
        with watch("fc"):
            described = apply_fc(self.fc, features, self.config.precision)
        with watch("classification"):
            scores = self.heads.score(described)
            return ScoredWindows(
                boxes,
                scores[inverse],
                described if self.heads.is_softmax else features,
                inverse,
                size,
                self.heads,
                self.config.regression_inclusive,
            )

    def _describe(self) -> Description:
        """What config.json tells of it; log-odds need no calibration to be stored."""
        known = self.calibration is not None and not self.heads.is_softmax
        return Description(self.config, self.training, self.classes, calibrated=known)

    def _modules(self) -> nn.ModuleDict:
        """All that is saved, under the names in the file."""
        modules = self._heads()
        modules["trunk"] = self.extractor.backbone.layers
        return modules

    def _heads(self) -> nn.ModuleDict:
        """All that is saved but the trunk."""
        modules: dict[str, nn.Module] = {"heads": self.heads}
        if self.fc is not None:
            modules["fc"] = self.fc
        if self.first is not None:
            modules["first"] = self.first
        if self.calibration is not None and not self.heads.is_softmax:
            modules["calibration"] = self.calibration
        return nn.ModuleDict(modules)

    def _without_public(self) -> nn.ModuleDict:
        """All that is saved but the layers of the trunk whose weights are public."""
        modules = self._heads()
        if self.training.train_from:
            modules["tail"] = split_backbone(self.extractor.backbone, self.training.train_from)[1]
        return modules

    def _load_packed(self, folder: Path, weights: str) -> None:
        """Load a packed model from its folder and its trunk from weights; check both."""
        backbone = self.extractor.backbone
        load_weights(backbone, weights)
        modules = self._without_public()
        modules["public_trunk"] = check = PublicTrunk.of(backbone)
        load_tensors(folder, modules)
        difference = check.differs(backbone)
        if not difference <= MOST_DIFFERENCE:
            raise ModelError(
                f"{weights}: not the trunk of {folder}: its maps differ by {difference:.0%}, "
                f"expected at most {MOST_DIFFERENCE:.0%}"
            )

    def _change(
        self, config: Config, fc: FcLayers | None = None, first: FirstStage | None = None
    ) -> Detector:
        """Make a detector that shares all but what is given."""
        parts = self.classes, self.extractor, self.heads, fc or self.fc, first or self.first
        return Detector(config, *parts, self.training, self.calibration)


def _finish(path: Path, pending: Pending | DataError) -> tuple[Path, Detections | DataError]:
    return path, pending if isinstance(pending, DataError) else pending.read()


def make_proposal_settings(config: Config) -> ProposalSettings:
    """Make the settings of the proposals from a configuration."""
    return ProposalSettings(
        method=config.proposals,
        max_windows=config.max_windows,
        min_side=config.min_window_side,
        seed=config.seed,
    )
