"""Who does work that falls into items: this process here, a cluster in `spp_detect.cluster`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """One process alone, which does all items one after the other."""

    @property
    def count(self) -> int:
        """How many may be at work at once."""
        return 1

    def check_files(self, paths: Iterable[Path]) -> None:
        """Check that all who work find files of this machine."""

    def map(
        self, work: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Do a work on items.

        Parameters
        ----------
        work : callable
            Gives a result an item, in their order, of as many items as it is given. What it gives
            must not depend on how they are divided.
        items : sequence
            Photographs' or classes' numbers, or what else stands for the items.

        Yields
        ------
        object
            The results in the items' order.
        """
        yield from work(items)
