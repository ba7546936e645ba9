"""Processes that fine-tune together, on one machine or on several, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")

PATIENCE = timedelta(days=30)  # the others wait while the first proposes windows and fills maps


@dataclass(frozen=True)
class Team:
    """One of the processes, and how many they are; by default it is alone.

    Attributes
    ----------
    rank : int
        From 0 on; the first does all that is not done together.
    size : int
        How many they are.
    """

    rank: int = 0
    size: int = 1

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
        flat = torch.cat([one.flatten() for one in tensors])
        distributed.all_reduce(flat)
        parts = flat.split([one.numel() for one in tensors])
        for one, part in zip(tensors, parts, strict=True):
            one.copy_(part.view_as(one))

    def follow(self, tensors: Iterable[torch.Tensor]) -> None:
        """Take over the first process's values, in place."""
        for one in tensors if self.size > 1 else ():
            distributed.broadcast(one, 0)

    def agree(self, answer: bool) -> bool:
        """Give all processes the first one's answer, for which the others wait."""
        told = [answer]
        if self.size > 1:
            distributed.broadcast_object_list(told, 0)
        return told[0]


ALONE = Team()


@contextmanager
def join_team(device: torch.device) -> Iterator[Team]:
    """Join the processes that torchrun started; without it this one is alone.

    On a machine with several GPUs each process takes its own.

    Parameters
    ----------
    device : torch.device
        Where it computes: they talk by NCCL from GPUs, by Gloo from processors.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if not distributed.is_torchelastic_launched() or size == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Team(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()
