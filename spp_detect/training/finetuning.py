"""Fine-tuning of the fc layers, and beyond the paper of the trunk's last layers (section 4.1).

Beyond it, too, a layer that moves boxes may learn beside them, as in Fast R-CNN (ICCV 2015), and
the trunk may learn without fc layers: under one linear layer on the pooled features.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from spp_detect.config import RunConfig, TrainingConfig
from spp_detect.dtype import use_precision
from spp_detect.fc import FcLayers
from spp_detect.features import Extractor
from spp_detect.files import write_json, write_tensors
from spp_detect.heap import keeping_freed
from spp_detect.progress import track
from spp_detect.threads import set_numba_threads
from spp_detect.training.last_layers import TARGET_STD, LastLayers, Standardised
from spp_detect.training.optimiser_state import name_state, take_up_state
from spp_detect.training.run_folder import read_tensors
from spp_detect.training.sampling import Draw, Sampler
from spp_detect.training.stage import Stage
from spp_detect.training.team import Team
from spp_detect.training.tuned_trunks import Pooling, TunedTrunk

STANDARDISED_BATCHES = 40  # on which mean and spread of pooled features are measured
STANDARDISED_FC_NORM = 0.7  # of a window that fc6 takes, times the square root of its values
SECOND_MOMENT = 0.98  # AdamW's second beta, as in the experiment that chose the preset tuned-fc
EVALUATIONS = 20  # of the held-out windows, evenly spread over the iterations
HELD_OUT_WINDOWS = (8, 24)  # positives and negatives of each held-out photograph
# For going on: weights and the optimiser's state; the best snapshot.
STATE, BEST = "finetuning.safetensors", "finetuning_best.safetensors"
STEM_MAPS, WINDOW_COMPONENTS = "stem_maps", "window_components"  # folders that tuning needs
HISTORY = "finetuning.json"  # in the run's folder
COLUMNS = ("iteration", "training_loss", "held_out_loss", "held_out_accuracy")


class TuningError(ValueError):
    """Fine-tuning that leads nowhere; one line says why."""


class FineTuner:
    """Trains the trunk's tail, fc layers and a softmax over classes and background on windows.

    Parameters
    ----------
    trunk : TunedTrunk
        Gives features; its tail changes in place.
    fc : FcLayers
        They, or what the trunk makes of them, change in place.
    last : LastLayers
        On top of them; they change in place.
    sampler : Sampler
        Draws windows.
    config : RunConfig
        The constants.
    device : torch.device
        Where the layers learn.
    work : Path
        Gets the state of an interrupted run.
    team : Team, optional
        The processes that share each batch, and the held-out photographs; only the first writes.
    """

    def __init__(
        self,
        trunk: TunedTrunk,
        fc: FcLayers,
        last: LastLayers,
        sampler: Sampler,
        config: RunConfig,
        device: torch.device,
        work: Path,
        team: Team | None = None,
    ) -> None:
        self.team = team or Team(device=device)
        self.trunk = trunk
        fc = trunk.restrict(fc)
        self.sampler = sampler
        self.config = config
        self.device = device
        self.fc = fc
        self.last = last
        self.fc8 = last.fc8
        self.has_fc = config.has_fc
        norm = STANDARDISED_FC_NORM * fc.inputs**0.5
        norm = norm if self.has_fc else config.training.feature_norm
        self.inputs = Standardised(fc.inputs, norm)
        modules = {"tail": trunk.tail, "inputs": self.inputs, "fc": fc, "last": last}
        self.network = nn.ModuleDict(modules).to(device)
        self.state_path = work / STATE
        self.best_path = work / BEST
        self.optimiser = self._make_optimiser()
        self.history: list[tuple[float, ...]] = []

    def _make_optimiser(self) -> torch.optim.Optimizer:
        """Make the optimiser; fc8's biases and the trunk have rates of their own."""
        training = self.config.training
        tail = list(self.trunk.tail.parameters())
        apart = {id(parameter) for parameter in [*tail, self.fc8.bias]}
        others = [p for p in self.network.parameters() if id(p) not in apart]
        decay = training.finetune_decay if training.fc8_bias_decay else 0.0
        groups = [
            {"params": others, "factor": 1.0},
            {"params": tail, "factor": training.finetune_trunk_rate},
            {"params": [self.fc8.bias], "factor": training.fc8_bias_rate, "weight_decay": decay},
        ]
        momentum = training.finetune_momentum
        given: dict[str, Any] = {"lr": 0.0, "weight_decay": training.finetune_decay, "fused": True}
        if training.finetune_optimiser == "adamw":
            return torch.optim.AdamW(groups, betas=(momentum, SECOND_MOMENT), **given)
        return torch.optim.SGD(groups, momentum=momentum, **given)

    @keeping_freed()
    def tune(self) -> NDArray[np.float64]:
        """Train, from where an interrupted run stands, and load the best snapshot.

        Returns
        -------
        float64 (K, 4)
            Iteration, training loss since the last row, loss and accuracy on the held-out windows.
        """
        iterations = self.config.training.finetune_iterations
        every = max(1, iterations // EVALUATIONS)
        start = self._restore()
        losses: list[float] = []
        # One thread reads ahead; all pooling of a frozen trunk happens in it.
        with ThreadPoolExecutor(1, initializer=self._begin_reading) as worker:
            if start == 0 and self.config.training.finetune_standardised and self.team.leads:
                self._standardise(worker)
            self.team.follow(self.network.state_dict().values())
            drawn = map(self.sampler.draw_batch, range(start, iterations))
            batches = self.read_batches(worker, map(self.team.share, drawn))
            for step, batch in track(enumerate(batches, start), "fine-tuning", iterations - start):
                losses.append(self.learn(step, batch))
                if (step + 1) % every == 0 or step + 1 == iterations:
                    self._evaluate(worker, step + 1, float(np.mean(losses)))
                    if self.team.leads:
                        self._save(step + 1)
                    losses = []
        if self.team.leads:
            self.network.load_state_dict(read_tensors(self.best_path))
        self.inputs.fold_into(*((self.fc.first,) if self.has_fc else self.last.linear))
        self.network.eval()
        self.optimiser.zero_grad()  # lets go of the gradients
        return np.array(self.history)

    def _begin_reading(self) -> None:
        """Prepare the thread that reads: it has a device and a number of threads of its own."""
        set_numba_threads()
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def read_batches(
        self, worker: ThreadPoolExecutor, drawn: Iterable[list[Draw]]
    ) -> Iterator[list[tuple[Draw, Pooling]]]:
        """Read batches in a worker, one ahead."""
        ahead: deque[Future[list[tuple[Draw, Pooling]]]] = deque()
        for draws in drawn:
            ahead.append(worker.submit(self.read, draws))
            if len(ahead) > 1:
                yield ahead.popleft().result()
        for last in ahead:
            yield last.result()

    def read(self, draws: list[Draw]) -> list[tuple[Draw, Pooling]]:
        """Read what a batch needs."""
        return [(draw, self.trunk.read(draw)) for draw in draws]

    def learn(self, step: int, batch: list[tuple[Draw, Pooling]]) -> float:
        """Take one step of the optimiser: the batch's loss before it."""
        for group in self.optimiser.param_groups:
            group["lr"] = group["factor"] * rate_at(self.config.training, step)
        self.network.train()
        _freeze_statistics(self.trunk.tail)
        # An interrupted run repeats the dropout; no two processes have the same.
        torch.manual_seed(self.config.model.seed + step + (self.team.rank << 32))
        windows = torch.tensor([float(sum(len(draw.labels) for draw, _ in batch))])
        windows = windows.to(self.device)
        self.team.add_up([windows])
        self.optimiser.zero_grad()
        loss = torch.zeros(1, device=self.device)
        if batch:
            own = self._sum_losses(batch) / windows
            own.backward()
            loss = own.detach()
        self._add_gradients_up(loss)
        self.optimiser.step()
        return float(loss.item())

    def _add_gradients_up(self, loss: torch.Tensor) -> None:
        """Add up what the processes have learnt from their parts of a batch, and their losses."""
        if self.team.size == 1:
            return
        gradients = []
        for parameter in self.network.parameters():
            if parameter.grad is None:  # nothing of the batch came to this process
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.team.add_up([*gradients, loss])

    def score(self, batch: list[tuple[Draw, Pooling]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Score a batch's windows: float32 (N, C + 1), and their labels, (N,).

        Weights, gradients and losses are float32, whatever the products are computed in.
        """
        with use_precision(self.config.model.precision, self.device):
            scores: torch.Tensor = self.fc8(self._describe(batch))
        return scores.float(), self._join_labels(batch)

    def _sum_losses(self, batch: list[tuple[Draw, Pooling]]) -> torch.Tensor:
        """Sum over windows: of the softmax, and of the boxes where these learn (smooth L1)."""
        with use_precision(self.config.model.precision, self.device):
            described = self._describe(batch)
            scores = self.fc8(described).float()
            labels = self._join_labels(batch)
            loss = functional.cross_entropy(scores, labels, reduction="sum")
            if not self.config.training.finetune_boxes:
                return loss
            rows = torch.nonzero(labels < self.sampler.background)[:, 0]
            moves = self.last.move(described[rows], labels[rows])
        targets = np.concatenate([self.sampler.find_targets(draw) for draw, _ in batch])
        wanted = torch.from_numpy(targets).to(self.device) / moves.new_tensor(TARGET_STD)
        return loss + functional.smooth_l1_loss(moves, wanted, reduction="sum")

    def _describe(self, batch: list[tuple[Draw, Pooling]]) -> torch.Tensor:
        features = torch.cat([pool() for _, pool in batch]).to(self.device)
        described: torch.Tensor = self.fc(self.inputs(features))
        return described

    def _join_labels(self, batch: list[tuple[Draw, Pooling]]) -> torch.Tensor:
        return torch.cat([torch.from_numpy(draw.labels) for draw, _ in batch]).to(self.device)

    @torch.no_grad()
    def _standardise(self, worker: ThreadPoolExecutor) -> None:
        """Measure pooled features on the first batches, which are then learnt from, too."""
        drawn = map(self.sampler.draw_batch, range(STANDARDISED_BATCHES))
        batches = self.read_batches(worker, drawn)
        features = [pool().float() for batch in batches for _, pool in batch]
        self.inputs.measure(torch.cat(features).to(self.device))

    @torch.no_grad()
    def _evaluate(self, worker: ThreadPoolExecutor, step: int, training_loss: float) -> None:
        """Measure on the held-out photographs' windows, always the same; keep the best snapshot."""
        self.network.eval()
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for index in self.team.share(self.sampler.held_out):
            draws = self.sampler.draw_held_out(index, *HELD_OUT_WINDOWS)
            scores, labels = self.score(worker.submit(self.read, draws).result())
            sums[0] += functional.cross_entropy(scores, labels, reduction="sum")
            sums[1] += (scores.argmax(1) == labels).sum()
            sums[2] += len(labels)
        self.team.add_up([sums])
        total, correct, count = sums.tolist()
        loss = total / count
        if not np.isfinite(loss):
            raise TuningError(
                f"fine-tuning: the loss on held-out windows is {loss} after {step} iterations; "
                "expected a finite one, give lower rates"
            )
        better = not self.history or loss < min(row[2] for row in self.history)
        if better and self.team.leads:
            write_tensors(self.best_path, self.network.state_dict())
        self.history.append((step, training_loss, loss, correct / count))

    def _save(self, step: int) -> None:
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= name_state(self.optimiser)
        tensors["history"] = torch.tensor(self.history, dtype=torch.float64)
        write_tensors(self.state_path, tensors | {"step": torch.tensor([step])})

    def _restore(self) -> int:
        """Take up an interrupted run: the next iteration."""
        if not (self.state_path.is_file() and self.best_path.is_file()):
            return 0
        tensors = read_tensors(self.state_path)
        network = {
            k.removeprefix("network."): v for k, v in tensors.items() if k.startswith("network.")
        }
        self.network.load_state_dict(network)
        take_up_state(self.optimiser, tensors)
        self.history = [tuple(row) for row in tensors["history"].tolist()]
        return int(tensors["step"][0])


class FineTune(Stage[None]):
    """Fine-tune the fc layers and the trunk's last layers, or load what was tuned.

    Parameters
    ----------
    make_tuner : callable
        Makes what tunes them: it labels all windows, which a run that is past this does without.
    fc, last, tail : nn.Module
        The layers; they change in place.
    extractor : Extractor
        Follows them.
    leaves : Path
        Gets the tuned layers; another run's where that tuned them.
    run_folder : Path
        Gets the history.
    """

    name = "fine-tuning"

    def __init__(
        self,
        make_tuner: Callable[[], FineTuner],
        fc: FcLayers,
        last: LastLayers,
        tail: nn.Module,
        extractor: Extractor,
        leaves: Path,
        run_folder: Path,
    ) -> None:
        self.leaves = (leaves,)
        self.make_tuner = make_tuner
        self.fc = fc
        self.extractor = extractor
        self.run_folder = run_folder
        self.tuned = nn.ModuleDict({"tail": tail, "fc": fc, "last": last})

    def run(self) -> None:
        """Fill the cache, then tune."""
        tuner = self.make_tuner()
        tuner.trunk.prepare(mirrored=tuner.sampler.mirrors)
        tuner.team.tell(True)  # who waits may come
        history = tuner.tune()
        tuner.trunk.extend(self.fc, tuner.fc)
        rows = [dict(zip(COLUMNS, row, strict=True)) for row in history.tolist()]
        write_json(self.run_folder / HISTORY, rows)
        write_tensors(self.leaves[0], self.tuned.state_dict())

    def load(self) -> None:
        """Load the tuned layers."""
        self.tuned.load_state_dict(read_tensors(self.leaves[0]))
        self.fc.refresh()
        self.extractor.trunk.refresh()
        work = self.run_folder / "work"
        for name in (STATE, BEST):
            (work / name).unlink(missing_ok=True)
        for name in (STEM_MAPS, WINDOW_COMPONENTS):
            shutil.rmtree(work / name, ignore_errors=True)


def rate_at(config: TrainingConfig, step: int) -> float:
    """Learning rate of an iteration, by the schedule's shares of all iterations."""
    done = 0.0
    warm = min(1.0, (step + 1) / max(1, config.finetune_warmup))
    for rate, share in zip(config.finetune_rates, config.finetune_shares, strict=True):
        done += share
        if step < done * config.finetune_iterations:
            return warm * rate
    return config.finetune_rates[-1]


def _freeze_statistics(layers: nn.Module) -> None:
    """Keep batch norm as it was learnt: two photographs say little about a mean."""
    for layer in layers.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
