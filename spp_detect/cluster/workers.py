"""Work of one process done by all cores of a Ray cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import ray

from spp_detect.cluster.nodes import (
    MOST_DEATHS,
    ClusterError,
    check_files,
    check_versions,
    join_cluster,
    shorten,
)
from spp_detect.heap import hand_back
from spp_detect.provenance import find_version
from spp_detect.threads import set_threads
from spp_detect.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_ITEMS = 8  # that a worker does at once: so much is lost where it dies
BATCHES = 2  # for each worker on their way, so that none waits for the next


class RayWorkers(Workers):
    """The cores of a Ray cluster, each worker on so many of them as it has threads.

    A worker that dies is replaced, and what it did is done again, three times at most.

    Parameters
    ----------
    threads : int
        In which a worker computes.

    Raises
    ------
    ClusterError
        Where no machine has so many cores.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        if not self._count():
            raise ClusterError(f"--threads {threads}: no machine of the cluster has so many cores")

    def __reduce__(self) -> tuple[type[Workers], tuple[()]]:
        """On a worker all is done by itself."""
        return Workers, ()

    @property
    def count(self) -> int:
        """How many may be at work at once, now."""
        return max(1, self._count())

    def _count(self) -> int:
        cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        return sum(int(own // self.threads) for own in cores)

    def check_files(self, paths: Iterable[Path]) -> None:
        """Check that all machines find files of this one; ClusterError for one that does not."""
        check_files(paths)

    def map(
        self, work: Callable[[Sequence[Item]], Iterable[Result]], items: Sequence[Item]
    ) -> Iterator[Result]:
        """Do a work on items, some at a time on each worker; see Workers.

        Raises
        ------
        ClusterError
            For work that kills its worker again and again, and a cluster that is lost. An error
            of the work itself is raised as it is.
        """
        sent = ray.put(work)
        do = ray.remote(num_cpus=self.threads, max_retries=MOST_DEATHS)(do_work)
        size = min(MOST_ITEMS, max(1, len(items) // (2 * BATCHES * self.count)))
        starts = iter(range(0, len(items), size))
        waiting: deque[Any] = deque()
        try:
            while True:
                room = max(0, BATCHES * self.count - len(waiting))
                batches = (items[start : start + size] for start in islice(starts, room))
                waiting.extend(do.remote([sent], batch, self.threads) for batch in batches)
                if not waiting:
                    return
                yield from _take(waiting.popleft())
        finally:
            for one in waiting:
                ray.cancel(one)


@contextmanager
def join_workers(address: str, threads: int) -> Iterator[RayWorkers]:
    """Join a cluster, or start one of this machine, as workers until the work is done.

    Parameters
    ----------
    address : str
        Of a Ray cluster, as `ray.init` takes it, or "local".
    threads : int
        In which a worker computes.

    Raises
    ------
    ClusterError
        For an address where no cluster is, a machine without this version of the package, and more
        threads than any has cores.
    """
    with join_cluster(address):
        check_versions(find_version("spp-detect"))
        yield RayWorkers(threads)


def do_work(sent: list[Any], items: Sequence[Any], threads: int) -> list[Any]:
    """Do a work, which was sent to all, on some items: on a worker."""
    set_threads(threads)
    done = list(_receive(sent[0])(items))
    hand_back()
    return done


@lru_cache(maxsize=1)
def _receive(sent: Any) -> Callable[[Sequence[Any]], Iterable[Any]]:
    """Keep what was sent: it has the trunk's weights and all labels in it."""
    work: Callable[[Sequence[Any]], Iterable[Any]] = ray.get(sent)
    return work


def _take(asked: Any) -> list[Any]:
    try:
        done: list[Any] = ray.get(asked)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        told = f"what is done is kept, go on with --resume ({shorten(error)})"
        raise ClusterError(f"a worker died again and again, or the cluster: {told}") from error
    return done
