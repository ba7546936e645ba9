"""A Ray cluster: joining it, and asking its nodes whether they can be used."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spp_detect.threads import count_cores

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

LOCAL = "local"  # the address that starts a cluster of this machine alone
RAYS_OWN = ("RayTaskError", "UserCodeException")  # errors that have a worker's inside
MOST_DEATHS = 3  # of an actor, or of a task's workers: a photograph may be what kills it
ANSWER_SECONDS = 60.0  # in which a node answers


class ClusterError(RuntimeError):
    """A cluster that cannot be used, or work on it that failed; one line says why."""


@contextmanager
def join_cluster(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one of this machine's cores, until the work is done."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            cores = {"num_cpus": count_cores(), "include_dashboard": False}
            ray.init(address="local", **cores, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ClusterError(
            f"--ray {address}: no cluster answers there ({told}); expected HOST:PORT of "
            f"`ray start --head`, auto, or {LOCAL}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ask whether anything listens at HOST:PORT, where Ray itself would ask for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def check_versions(wanted: str | None) -> None:
    """Ask every node for its version of the package; ClusterError for one that has another."""

    def tell_version() -> str | None:  # not sent by its module's name: a worker may lack that
        from importlib.metadata import PackageNotFoundError, version

        import spp_detect  # noqa: F401

        try:
            return version("spp-detect")
        except PackageNotFoundError:
            return None

    for name, found in ask_nodes(tell_version):
        if found != wanted:
            raise ClusterError(f"worker {name}: has spp-detect {found}; expected {wanted}, as here")


def check_files(paths: Iterable[Path]) -> None:
    """Ask every node for files of this machine; ClusterError for one that does not find them."""
    sizes = {str(path): path.stat().st_size for path in paths}

    def find_missing() -> list[str]:
        from pathlib import Path

        return [
            name
            for name, size in sizes.items()
            if not Path(name).is_file() or Path(name).stat().st_size != size
        ]

    for name, missing in ask_nodes(find_missing):
        if missing:
            raise ClusterError(
                f"worker {name}: does not find {missing[0]} as it is here; expected photographs "
                "and --out in folders that all machines share, at the same path"
            )


def ask_nodes(question: Callable[[], Answer]) -> Iterator[tuple[str, Answer]]:
    """Ask every node something, and give its address and its answer.

    Parameters
    ----------
    question : callable
        Is sent as it is, so that a node that lacks a module can be told from others.

    Raises
    ------
    ClusterError
        Where it fails on a node, or takes longer than a minute; nodes that die meanwhile are
        passed over.
    """
    ask = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = []
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append((node["NodeManagerAddress"], ask.options(scheduling_strategy=there)))
    for name, answer in [(name, one.remote()) for name, one in asked]:
        try:
            found = ray.get(answer, timeout=ANSWER_SECONDS)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            logger.warning("worker %s: is no longer there", name)
            continue
        except Exception as error:  # of Ray's many kinds
            told = f"spp-detect cannot be used there ({shorten(error)})"
            raise ClusterError(f"worker {name}: {told}") from error
        yield name, found


def shorten(error: BaseException) -> str:
    """Find the worker's own error in Ray's, which has tracebacks before it and advice after."""
    named = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception): .+)$", str(error), re.M)
    own = [one for one in named if not one.startswith(RAYS_OWN)]
    lines = own or str(error).strip().splitlines() or [type(error).__name__]
    return str(lines[-1])
