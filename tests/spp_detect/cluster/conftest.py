"""A Ray cluster of two nodes on the loopback, and processes that may be killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

PATIENCE = 120.0  # seconds


def find_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def start(*words):
    """Start a process in a group of its own, whose children go with it."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([str(word) for word in words], start_new_session=True, **quiet)


def find_descendants(pid):
    """Processes below one: those of Ray are in groups of their own."""
    children = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = children.get(pid, [])
    for one in found:
        found += children.get(one, [])
    return found


def stop(process):
    """Kill a process and all below it."""
    for pid in [process.pid, *find_descendants(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def wait_for(happened, what):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if happened():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {PATIENCE:.0f} seconds")


def answers(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


class Cluster:
    """A head and nodes of one core each, by `ray start`."""

    def __init__(self, folder):
        self.command = Path(sys.executable).with_name("ray")
        self.port = find_port()
        self.address = f"127.0.0.1:{self.port}"
        core = ("--num-cpus=1", "--object-store-memory=200000000", "--block")
        self.head = start(
            *(self.command, "start", "--head", f"--port={self.port}", f"--temp-dir={folder}"),
            *("--include-dashboard=false", *core),
        )
        wait_for(lambda: answers(self.port), "the head")
        self.core = core
        self.nodes = []

    def add_node(self):
        self.nodes.append(start(self.command, "start", f"--address={self.address}", *self.core))
        self.wait_for_nodes()

    def remove_node(self):
        stop(self.nodes.pop())

    def wait_for_nodes(self):
        """Wait until Ray knows who is there: of a node that died it hears late."""
        count = len(self.nodes) + 1
        import ray

        from spp_detect.cluster.nodes import join_cluster

        with join_cluster(self.address):
            wait_for(lambda: sum(n["Alive"] for n in ray.nodes()) == count, "the nodes")

    def stop(self):
        for process in (*self.nodes, self.head):
            stop(process)

    def find_workers(self, word):
        """Processes that do what has a word in its name."""
        below = [pid for one in (self.head, *self.nodes) for pid in find_descendants(one.pid)]
        found = []
        for pid in below:
            with contextlib.suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found


@pytest.fixture(scope="session")
def processes():
    """Functions that start processes, wait for what they do, and kill them."""
    return SimpleNamespace(
        start=start, stop=stop, wait_for=wait_for, find_port=find_port, answers=answers
    )


@pytest.fixture(scope="module")
def make_cluster():
    """Starts the cluster of a module."""
    folder = Path(f"/tmp/ray-{os.getpid()}")  # short: Ray's sockets lie there
    made = []

    def make():
        made.append(Cluster(folder))
        made[0].add_node()
        return made[0]

    yield make
    for one in made:
        one.stop()
    shutil.rmtree(folder, ignore_errors=True)
