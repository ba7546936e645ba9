"""Fine-tuning of the fc layers, and beyond the paper of the trunk's last layers (section 4.1)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from data import LabelledSet
from spp_detect.config import PHOTOGRAPHS_PER_BATCH, Config
from spp_detect.fc import FcLayers
from spp_detect.features import Extractor, FeatureExtractor, PhotoMaps
from spp_detect.files import write_tensors
from spp_detect.progress import track
from spp_detect.threads import set_numba_threads
from spp_detect.training.crops import CropStore
from spp_detect.training.maps import MapStore
from spp_detect.training.sampling import draw_windows, label_windows
from spp_detect.training.targets import mirror_windows

EVALUATIONS = 20  # of the held-out windows, evenly spread over the iterations
PHOTOGRAPHS_PER_TUNED_BATCH = 2  # where the trunk is tuned each costs a pass through it
HELD_OUT = 10  # every tenth photograph chooses the snapshot and is not learnt from
HELD_OUT_WINDOWS = (8, 24)  # positives and negatives of each


class TuningError(ValueError):
    """Fine-tuning that leads nowhere; one line says why."""


class Draw(NamedTuple):
    """Windows of one photograph at one scale, some of a batch."""

    photograph: int
    mirrored: bool
    scale: int
    windows: NDArray[np.float32]
    labels: NDArray[np.int64]


class Sample(NamedTuple):
    """A draw with what was read for it: pooled features, or a map for the tuned layers."""

    draw: Draw
    maps: Any
    values: torch.Tensor


class FineTuner:
    """Trains fc6, fc7 and a softmax over classes and background on windows of cached maps.

    R-CNN's fc layers are trained the same, on cached features of crops, none of them mirrored.

    Parameters
    ----------
    dataset : labelled photographs.
    windows : float32 (N, 4) proposed in each.
    extractor : locates windows on maps or pools crops; its trunk's tuned layers change in place.
    store : the photographs' maps, of the layers before those that are tuned, or crops' features.
    tail : the trunk's layers that are tuned; empty where only the fc layers are.
    fc : the fc layers; they change in place.
    config : the constants.
    work : gets the state of an interrupted run.
    """

    def __init__(
        self,
        dataset: LabelledSet,
        windows: list[NDArray[np.float32]],
        extractor: Extractor,
        store: MapStore | CropStore,
        tail: nn.Sequential,
        fc: FcLayers,
        config: Config,
        work: Path,
    ) -> None:
        self.dataset = dataset
        self.extractor = extractor
        self.store = store
        # A mirrored crop would cost R-CNN a pass of its own.
        self.mirrors = config.mirror_finetuning and isinstance(store, MapStore)
        self.config = config
        self.background = len(dataset.classes)
        self.tail = tail
        self.fc = fc
        torch.manual_seed(config.seed)
        self.fc8 = nn.Linear(fc.length, len(dataset.classes) + 1)
        nn.init.normal_(self.fc8.weight, std=0.01)
        nn.init.zeros_(self.fc8.bias)
        self.network = nn.ModuleDict({"tail": tail, "fc": fc, "fc8": self.fc8}).to(extractor.device)
        self.labelled = [
            label_windows(p, w, config.finetune_iou, config.finetune_background)
            for p, w in zip(dataset, windows, strict=True)
        ]
        order = np.random.default_rng(config.seed).permutation(len(dataset))
        usable = [i for i in order.tolist() if len(self.labelled[i].positives)]
        self.held_out, self.learnt = usable[::HELD_OUT], _leave_out(usable, HELD_OUT)
        self.state_path = work / "finetuning.safetensors"
        self.best_path = work / "finetuning_best.safetensors"
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(
            parameters,
            lr=0.0,
            momentum=config.finetune_momentum,
            weight_decay=config.finetune_decay,
            fused=True,
        )
        self.history: list[tuple[float, ...]] = []

    def forget(self) -> None:
        """Remove the state for going on: weights, momentum, the best snapshot."""
        self.state_path.unlink(missing_ok=True)
        self.best_path.unlink(missing_ok=True)

    def tune(self) -> NDArray[np.float64]:
        """Train, from where an interrupted run stands, and load the best snapshot.

        Returns
        -------
        float64 (K, 4): iteration, training loss since the last row, loss and accuracy on the
        held-out windows.
        """
        iterations = self.config.finetune_iterations
        every = max(1, iterations // EVALUATIONS)
        start = self._restore()
        losses: list[float] = []
        # One thread prepares windows ahead; all pooling of a frozen trunk happens in it.
        with ThreadPoolExecutor(1, initializer=set_numba_threads) as self._worker:
            batches = self._prepare_batches(start, iterations)
            for step, batch in track(enumerate(batches, start), "fine-tuning", iterations - start):
                losses.append(self._step(step, batch))
                if (step + 1) % every == 0 or step + 1 == iterations:
                    self._evaluate(step + 1, float(np.mean(losses)))
                    self._save(step + 1)
                    losses = []
        self.network.load_state_dict(load_file(self.best_path))
        self.network.eval()
        self.optimiser.zero_grad()  # lets go of the gradients
        return np.array(self.history)

    def _step(self, step: int, batch: list[Sample]) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.config, step)
        self.network.train()
        _freeze_statistics(self.tail)
        torch.manual_seed(self.config.seed + step)  # an interrupted run repeats the dropout
        loss = functional.cross_entropy(*self._score(batch))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        # The fused update does not say that it changed them, and frozen copies wait for that.
        torch.autograd.graph.increment_version(list(self.network.parameters()))
        return float(loss.item())

    def _score(self, batch: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (N, C + 1) and labels (N,) of a batch's windows."""
        features = torch.cat([self._pool_tuned(s) if len(self.tail) else s.values for s in batch])
        labels = torch.cat([torch.from_numpy(sample.draw.labels) for sample in batch])
        device = self.extractor.device
        scores: torch.Tensor = self.fc8(self.fc(features.to(device)))
        return scores, labels.to(device)

    def _prepare_batches(self, start: int, stop: int) -> Iterator[list[Sample]]:
        ahead = self._worker.submit(self._prepare, self._draw_batch(start))
        for step in range(start, stop):
            batch = ahead.result()
            if step + 1 < stop:
                ahead = self._worker.submit(self._prepare, self._draw_batch(step + 1))
            yield batch

    def _draw_batch(self, step: int) -> list[Draw]:
        """Draw the windows of one batch: by the seed and the step alone, so that a run can go on.

        The photographs of an epoch come in a random order, each once.
        """
        count = PHOTOGRAPHS_PER_TUNED_BATCH if len(self.tail) else PHOTOGRAPHS_PER_BATCH
        positives = self.config.finetune_positives // count
        negatives = self.config.finetune_negatives // count
        draws = []
        for place in range(step * count, (step + 1) * count):
            epoch, i = divmod(place, len(self.learnt))
            order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.learnt))
            random = np.random.default_rng((self.config.seed, place, 1))
            index = self.learnt[order[i]]
            mirrored = self.mirrors and random.random() < 0.5
            draws += self._draw(index, positives, negatives, mirrored, random)
        return draws

    def _draw(
        self,
        index: int,
        positives: int,
        negatives: int,
        mirrored: bool,
        random: np.random.Generator,
    ) -> list[Draw]:
        """Draw windows of a photograph, each at a random scale; one for all where it is costly."""
        labelled = self.labelled[index]
        windows, labels = draw_windows(labelled, positives, negatives, self.background, random)
        if mirrored:
            windows = mirror_windows(windows, self.dataset.photographs[index].width)
        scales = random.integers(len(self.config.scales), size=len(windows))
        if len(self.tail):
            scales[:] = scales[0]
        return [
            Draw(index, mirrored, int(s), windows[scales == s], labels[scales == s])
            for s in np.unique(scales)
        ]

    def _prepare(self, draws: list[Draw]) -> list[Sample]:
        """Read what a batch needs: pooled features, or the maps that the tuned layers take."""
        samples = []
        for draw in draws:
            maps = self.store.get(draw.photograph, mirrored=draw.mirrored)
            if not isinstance(maps, PhotoMaps):
                pooled = self.extractor.pool(maps, draw.windows)
                values = pooled.features[pooled.inverse].float()
            elif len(self.tail):
                values = maps.maps[draw.scale].permute(2, 0, 1)[None].float()
            else:
                values = self._pool_frozen(maps, draw)
            samples.append(Sample(draw, maps, values))
        return samples

    def _pool_frozen(self, maps: PhotoMaps, draw: Draw) -> torch.Tensor:
        """Pool windows of a map of which only the cells under them are read."""
        one_map = maps.maps[draw.scale]
        cells = self._project(draw, maps, one_map)
        rows = []
        for left, top, right, bottom in cells.tolist():
            crop = one_map[top : bottom + 1, left : right + 1].float()
            whole = torch.tensor([[0, 0, right - left, bottom - top]], dtype=torch.int32)
            rows.append(self.extractor.pyramid.pool_windows(crop, whole))
        return torch.cat(rows)

    def _pool_tuned(self, sample: Sample) -> torch.Tensor:
        device = self.extractor.device
        values = sample.values.to(device).contiguous(memory_format=torch.channels_last)
        one_map = self.tail(values)[0].permute(1, 2, 0)
        cells = self._project(sample.draw, sample.maps, one_map)
        return self.extractor.pyramid.pool_windows(one_map, torch.from_numpy(cells).to(device))

    def _project(self, draw: Draw, maps: PhotoMaps, one_map: torch.Tensor) -> NDArray[np.int32]:
        assert isinstance(self.extractor, FeatureExtractor)
        return self.extractor.project(draw.windows, maps, draw.scale, one_map.shape[:2])

    @torch.no_grad()
    def _evaluate(self, step: int, training_loss: float) -> None:
        """Measure on the held-out photographs' windows, always the same; keep the best snapshot."""
        self.network.eval()
        loss, correct, count = 0.0, 0, 0
        for index in self.held_out:
            random = np.random.default_rng((self.config.seed, index, 2))
            draws = self._draw(index, *HELD_OUT_WINDOWS, False, random)
            samples = self._worker.submit(self._prepare, draws).result()
            scores, labels = self._score(samples)
            loss += float(functional.cross_entropy(scores, labels, reduction="sum"))
            correct += int((scores.argmax(1) == labels).sum())
            count += len(labels)
        loss /= count
        if not np.isfinite(loss):
            raise TuningError(
                f"fine-tuning: the loss on held-out windows is {loss} after {step} iterations; "
                "expected a finite one, give lower rates"
            )
        if not self.history or loss < min(row[2] for row in self.history):
            write_tensors(self.best_path, self.network.state_dict())
        self.history.append((step, training_loss, loss, correct / count))

    def _save(self, step: int) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors[f"momentum.{i}"] = state["momentum_buffer"]
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        write_tensors(self.state_path, tensors | {"step": torch.tensor([step])})

    def _restore(self) -> int:
        """Take up an interrupted run: the next iteration."""
        if not self.state_path.is_file():
            return 0
        tensors = load_file(self.state_path)
        network = {
            k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")
        }
        self.network.load_state_dict(network)
        state = self.optimiser.state_dict()
        state["state"] = {
            i: {"momentum_buffer": tensors[f"momentum.{i}"]}
            for i in range(len(state["param_groups"][0]["params"]))
        }
        self.optimiser.load_state_dict(state)
        self.history = [tuple(row) for row in tensors["history"].tolist()]
        return int(tensors["step"][0])


def rate_at(config: Config, step: int) -> float:
    """Learning rate of an iteration, by the schedule's shares of all iterations."""
    done = 0.0
    for rate, share in zip(config.finetune_rates, config.finetune_shares, strict=True):
        done += share
        if step < done * config.finetune_iterations:
            return rate
    return config.finetune_rates[-1]


def _leave_out(items: list[int], every: int) -> list[int]:
    """All items but every tenth, say; all where nothing would be left."""
    return [item for i, item in enumerate(items) if i % every] or items


def _freeze_statistics(layers: nn.Module) -> None:
    """Keep batch norm as it was learnt: two photographs say little about a mean."""
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
