"""Processes that fine-tune together, on one machine or on several, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from spp_detect.training.run_folder import TrainingError

Item = TypeVar("Item")

CPU = torch.device("cpu")
# The others wait while the first does what is not done together; where all work each expects the
# others soon.
LONG, SOON = timedelta(days=30), timedelta(minutes=30)


@dataclass(frozen=True)
class Team:
    """One of the processes, and how many they are; by default it is alone.

    Attributes
    ----------
    rank : int
        From 0 on; the first does all that is not done together.
    size : int
        How many they are.
    device : torch.device
        Where this one computes.
    group : process group of torch.distributed, optional
        In which they exchange what they compute.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    group: Any = None

    @property
    def leads(self) -> bool:
        """Whether this is the first."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Choose this process's part of what all have."""
        return list(items[self.rank :: self.size])

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Add each tensor up over all processes, in place and in one exchange."""
        if self.size == 1:
            return
        # Moved to where the processes talk: NCCL takes what lies on a GPU only.
        flat = torch.cat([one.flatten() for one in tensors]).to(self.device)
        distributed.all_reduce(flat, group=self.group)
        parts = flat.split([one.numel() for one in tensors])
        for one, part in zip(tensors, parts, strict=True):
            one.copy_(part.view_as(one))

    def follow(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take over the first process's values, in place."""
        for one in tensors if self.size > 1 else ():
            distributed.broadcast(one, 0, group=self.group)

    def tell(self, answer: bool) -> None:
        """Tell all others, which wait in `hear`."""
        self._pass_on(answer)

    def hear(self) -> bool:
        """Wait for what the first process tells."""
        return self._pass_on(False)

    def _pass_on(self, answer: bool) -> bool:
        told = torch.tensor([answer], device=self.device)
        if self.size > 1:
            distributed.broadcast(told, 0)
        return bool(told.item())


@contextmanager
def join_team(device: torch.device) -> Iterator[Team]:
    """Join the processes that torchrun started; without it this one is alone.

    Parameters
    ----------
    device : torch.device
        Where they compute. They talk by NCCL from GPUs, of which each takes one of its machine's,
        and by Gloo from processors.

    Raises
    ------
    TrainingError
        For more processes on a machine than it has GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not distributed.is_torchelastic_launched() or size == 1:
        yield Team(device=device)
        return
    if device.type == "cuda":
        device = _take_gpu(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONG)
    try:
        group = distributed.new_group(timeout=SOON)
        yield Team(distributed.get_rank(), size, device, group)
    finally:
        distributed.destroy_process_group()


def _take_gpu(number: int) -> torch.device:
    count = torch.cuda.device_count()
    if number >= count:
        raise TrainingError(
            f"process {number + 1} of this machine: it has {count} GPUs; expected no more "
            "processes than these, or --device cpu"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
