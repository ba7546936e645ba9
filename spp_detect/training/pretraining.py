"""Training a classifier at one input size, or at several in turn (paper, sections 2.3 and 3.1)."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from data import DEFAULT_MAX_SIDE
from spp_detect.backbones.zf5 import start_convolutions
from spp_detect.classification.config import MINIMUM_SIDE, ClassifierConfig
from spp_detect.classification.images import Images
from spp_detect.classification.network import Classifier, save_classifier
from spp_detect.classification.norms import add_norms, fold_norms
from spp_detect.classification.views import list_views, resize_image
from spp_detect.dtype import use_precision
from spp_detect.files import write_json, write_tensors
from spp_detect.heap import keeping_freed
from spp_detect.prefetch import work_ahead
from spp_detect.progress import track
from spp_detect.training.image_crops import CropSource, PreparedImages, join_images
from spp_detect.training.optimiser_state import name_state, take_up_state
from spp_detect.training.run_folder import TrainingError, read_tensors
from spp_detect.training.team import Team

# Pixels, changes of colour, labels.
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

STATE = "pretraining.safetensors"  # of an interrupted run, in its work folder
HISTORY = "history.json"
COLUMNS = ("epoch", "size", "rate", "loss", "error", "held_out_loss", "held_out_error")
SECONDS_BETWEEN_STATES = 600.0
DROPS = 2  # of the rate, to a tenth each
WARM = 0.15  # share of a cycle in which the rate rises
LEAST = 0.01  # of the highest rate, at both ends of a cycle


class Pretrainer:
    """Trains a classifier on batches drawn by chance.

    Parameters
    ----------
    config : ClassifierConfig
        The constants.
    images, held_out : Images
        To learn from, and to measure the error on after each epoch.
    run : Path
        Gets the classifier, its history, and in work/ the state of an interrupted run.
    team : Team
        The processes that share each batch, and where this one computes; only the first writes.
    memory : int
        Bytes of prepared images that are kept.
    max_side : int
        Of a photograph, in pixels.
    """

    def __init__(
        self,
        config: ClassifierConfig,
        images: Images,
        held_out: Images,
        run: Path,
        team: Team,
        memory: int,
        max_side: int = DEFAULT_MAX_SIDE,
    ) -> None:
        self.config = config
        self.team = team
        self.device = device = team.device
        self.run = run
        self.network = start_network(config, images.classes).to(device)
        self.network.to(memory_format=torch.channels_last)
        side = max(self.config.sizes) * MINIMUM_SIDE
        prepared = PreparedImages(images, side, memory, max_side)
        self.crops = CropSource(prepared, config.colour, config.seed, anywhere=self.is_normed)
        test_side = config.size * MINIMUM_SIDE
        self.held_out = PreparedImages(held_out, test_side, memory // 8, max_side)
        self.optimiser = make_optimiser(self.network)
        # What is left over has its turn in other epochs: a batch norm wants a whole batch.
        self.batches = max(1, len(images) // self.config.batch)
        self.history: list[tuple[float, ...]] = []
        self.sums = torch.zeros(3, dtype=torch.float64)  # loss, errors, images of the epoch so far
        self.seconds = 0.0
        self.saved = time.monotonic()

    @property
    def is_normed(self) -> bool:
        """Whether the start is the modern one."""
        return self.config.start == "normed"

    @keeping_freed()
    def train(self) -> Classifier:
        """Train, from where an interrupted run stands; the classifier is saved at the end.

        Raises
        ------
        TrainingError
            Where the loss is no number any more.
        """
        begun = self._restore()
        self.team.follow(self.network.state_dict().values())
        total = self.config.epochs * self.batches
        steps = track(self.read_ahead(begun), "pretraining", total - begun)
        for step, drawn in enumerate(steps, begun):
            epoch, batch = divmod(step, self.batches)
            self.learn(step, *drawn)
            if batch + 1 == self.batches:
                self._end_epoch(epoch)
            if self.team.leads and self._is_time(batch):
                self._save(step + 1)
        self.seconds += time.monotonic() - self.saved
        fold_norms(self.network)
        self.network.eval()
        if self.team.leads:
            save_classifier(self.network, self.run)
        return self.network

    def read_ahead(self, begun: int) -> Iterator[Batch]:
        """Draw this process's parts of the batches from one on, a few ahead, in threads."""

        def draw(step: int) -> Batch:
            epoch, batch = divmod(step, self.batches)
            first = batch * self.config.batch
            rows = self.crops.order(epoch)[first : first + self.config.batch]
            own = np.array(self.team.share(rows.tolist()), np.int64)
            return self.crops.draw(epoch, own, choose_size(self.config, epoch))

        return work_ahead(draw, range(begun, self.config.epochs * self.batches))

    def learn(
        self, step: int, pixels: torch.Tensor, shifts: torch.Tensor, labels: torch.Tensor
    ) -> None:
        """Take one step of the optimiser."""
        self.network.train()
        rate = find_rate(self.config, step, self.batches, self.held_out_errors)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        # An interrupted run repeats the dropout; no two processes have the same.
        torch.manual_seed(self.config.seed + step + (self.team.rank << 32))
        if len(labels) == 1 and self.is_normed:  # others could not be read
            labels = labels[:0]
        count = torch.tensor([float(len(labels))])
        self.team.add_up([count])
        self.optimiser.zero_grad()
        sums = torch.zeros(3, dtype=torch.float64)
        if len(labels):
            labels = labels.to(self.device)
            added = shifts.to(self.device)[:, :, None, None]
            scores = self._score(pixels.to(self.device) + added)
            loss = functional.cross_entropy(scores, labels, reduction="sum")
            (loss / count.item()).backward()
            wrong = (scores.argmax(1) != labels).sum()
            sums = torch.stack([loss.detach().double(), wrong.double()]).cpu()
            sums = torch.cat([sums, torch.tensor([float(len(labels))], dtype=torch.float64)])
        self._add_up(sums)
        self.optimiser.step()
        self.sums += sums
        if not bool(torch.isfinite(sums).all()):
            raise TrainingError(
                f"pretraining: the loss is {float(sums[0])} in epoch {step // self.batches + 1}; "
                "expected a finite one, begin anew with a lower --rate"
            )

    def _score(self, pixels: torch.Tensor) -> torch.Tensor:
        """Score images of RGB values, float32 (N, 3, H, W)."""
        pixels = self.network.trunk.normalise_tensor(pixels)
        with use_precision(self.config.precision, self.device):
            scores: torch.Tensor = self.network(
                pixels.contiguous(memory_format=torch.channels_last)
            )
        return scores.float()

    def _add_up(self, sums: torch.Tensor) -> None:
        """Add up over the processes: the gradients, and the batch's sums."""
        if self.team.size == 1:
            return
        for parameter in self.network.parameters():
            if parameter.grad is None:  # nothing of the batch came to this process
                parameter.grad = torch.zeros_like(parameter)
        self.team.add_up([p.grad for p in self.network.parameters() if p.grad is not None])
        self.team.add_up([sums])

    def _end_epoch(self, epoch: int) -> None:
        """Measure on the held-out images, and add a row to the history."""
        # Batch norms' statistics are of each process's own part of the batches.
        self.team.follow(self.network.buffers())
        sums = self._measure_held_out()
        if not self.sums[2] or not sums[2]:
            what = "held-out images" if self.sums[2] else "images to learn from"
            raise TrainingError(f"pretraining: none of the {what} can be read")
        size = choose_size(self.config, epoch)
        last = (epoch + 1) * self.batches - 1
        rate = find_rate(self.config, last, self.batches, self.held_out_errors)
        loss, error = (self.sums[:2] / self.sums[2]).tolist()
        held_loss, held_error = (sums[:2] / sums[2]).tolist()
        self.history.append((epoch + 1, size, rate, loss, error, held_loss, held_error))
        self.sums = torch.zeros(3, dtype=torch.float64)
        if self.team.leads:
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in self.history]
            write_json(self.run / HISTORY, rows)

    @torch.no_grad()
    def _measure_held_out(self) -> torch.Tensor:
        """Sum loss and errors of the centre view, over the held-out images: float64 (3,)."""
        self.network.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        own = self.team.share(range(len(self.held_out)))
        parts = [own[i : i + self.config.batch] for i in range(0, len(own), self.config.batch)]
        for pixels, labels in work_ahead(self._cut_centres, parts):
            if len(labels):
                scores = self._score(pixels.to(self.device).float()).cpu()
                sums[0] += functional.cross_entropy(scores, labels, reduction="sum")
                sums[1] += (scores.argmax(1) != labels).sum()
                sums[2] += len(labels)
        self.team.add_up([sums])
        return sums

    def _cut_centres(self, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        size, labels = self.config.size, self.held_out.images.labels
        images = {i: self.held_out.read(i) for i in rows}
        crops = [cut_centre(image, size) for image in images.values() if image is not None]
        kept = [i for i, image in images.items() if image is not None]
        return join_images(crops, size), torch.from_numpy(labels[kept])

    @property
    def held_out_errors(self) -> list[float]:
        """Of the epochs so far."""
        return [row[-1] for row in self.history]

    def _is_time(self, batch: int) -> bool:
        ends = batch + 1 == self.batches
        return ends or time.monotonic() - self.saved > SECONDS_BETWEEN_STATES

    def _save(self, step: int) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= name_state(self.optimiser)
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        self.seconds += time.monotonic() - self.saved
        self.saved = time.monotonic()
        numbers = {"step": torch.tensor([step]), "seconds": torch.tensor([self.seconds])}
        write_tensors(self.run / "work" / STATE, tensors | numbers | {"sums": self.sums})

    def _restore(self) -> int:
        """Take up an interrupted run: the next step."""
        path = self.run / "work" / STATE
        if not path.is_file():
            return 0
        tensors = read_tensors(path)
        try:
            return self._take_up(tensors)
        except (KeyError, RuntimeError, ValueError) as error:
            raise TrainingError(
                f"{path}: not the state of this run; expected it as the run wrote it, delete it to "
                "begin anew"
            ) from error

    def _take_up(self, tensors: dict[str, torch.Tensor]) -> int:
        network = {
            k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")
        }
        self.network.load_state_dict(network)
        take_up_state(self.optimiser, tensors)
        rows = tensors["history"].tolist()
        self.history = [(int(row[0]), int(row[1]), *row[2:]) for row in rows]
        self.sums = tensors["sums"]
        self.seconds = float(tensors["seconds"])
        return int(tensors["step"][0])


def check_batch(config: ClassifierConfig, images: int, team: Team) -> None:
    """Raise TrainingError for batches that are too small to have batch norms."""
    if config.start == "normed" and min(config.batch, images) // team.size < 2:
        raise TrainingError(
            f"batch {config.batch} of {images} images in {team.size} processes: expected two "
            "images of each at least, for batch norms"
        )


def start_network(config: ClassifierConfig, classes: tuple[str, ...]) -> Classifier:
    """Build a network with its first weights; a trunk that has batch norms starts as it does.

    The layers of one that starts "normed" have batch norms, which `fold_norms` folds away.
    """
    torch.manual_seed(config.seed)
    network = Classifier(config, classes)
    has_norms = any(isinstance(layer, nn.BatchNorm2d) for layer in network.trunk.modules())
    if config.start == "normed":
        for part in (network.fc,) if has_norms else (network.trunk, network.fc):
            add_norms(part)
        return network
    if not has_norms:
        start_convolutions(network.trunk, config.init_stddev)
    for layer in [*network.fc.modules(), network.fc8]:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=config.init_stddev)
            nn.init.constant_(layer.bias, 0.0 if layer is network.fc8 else 1.0)
    return network


def make_optimiser(network: Classifier) -> torch.optim.Optimizer:
    """Make what takes the steps: the paper's descent with momentum, or AdamW for a normed start."""
    config = network.config
    if config.start == "normed":
        return torch.optim.AdamW(
            network.parameters(), lr=0.0, weight_decay=config.decay, fused=True
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=0.0,
        momentum=config.momentum,
        weight_decay=config.decay,
        fused=True,
    )


def choose_size(config: ClassifierConfig, epoch: int) -> int:
    """Side in pixels of the inputs of an epoch."""
    if config.random_sizes:
        random = np.random.default_rng((config.seed, epoch, 1))
        return int(random.integers(min(config.sizes), max(config.sizes) + 1))
    return config.sizes[epoch % len(config.sizes)]


def find_rate(
    config: ClassifierConfig, step: int, batches: int, held_out_errors: list[float]
) -> float:
    """Find the learning rate of a step.

    Parameters
    ----------
    config : ClassifierConfig
        A cycle over all steps where its start is "normed", else a tenth after each plateau.
    step : int
        From 0 on.
    batches : int
        Steps of an epoch.
    held_out_errors : list of float
        Of the epochs before.
    """
    if config.start == "normed":
        done = step / (config.epochs * batches)
        way = done / WARM if done < WARM else (1 - done) / (1 - WARM)
        return config.rate * (LEAST + (1 - LEAST) * (1 - float(np.cos(np.pi * way))) / 2)
    drops, best, waited = 0, float("inf"), 0
    for error in held_out_errors:
        waited = 0 if error < best else waited + 1
        best = min(best, error)
        if waited >= config.patience and drops < DROPS:
            drops, waited = drops + 1, 0
    return config.rate / 10.0**drops


def cut_centre(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Cut the square out of the middle of an image whose short side is 256/224 of it."""
    resized = resize_image(image, size * MINIMUM_SIDE)
    height, width = resized.shape[:2]
    x1, y1, x2, y2 = list_views((width, height), size)[0].astype(int).tolist()
    return resized[y1:y2, x1:x2]


def describe_run(config: ClassifierConfig, images: Images, held_out: Images) -> dict[str, Any]:
    """What a run is begun with, to be told from another."""
    return {
        "config": asdict(config),
        "classes": list(images.classes),
        "images": len(images),
        "held_out": len(held_out),
        "fingerprint": [fingerprint_images(one) for one in (images, held_out)],
    }


def fingerprint_images(images: Images) -> str:
    """Hash the images' names, boxes and classes."""
    digest = hashlib.sha256()
    for piece, label in zip(images.pieces, images.labels.tolist(), strict=True):
        digest.update(os.fsencode(f"{piece.path.name} {piece.box} {label}\n"))
    return digest.hexdigest()
