"""What a measured number must be read with: command, commit, versions, machine."""

from __future__ import annotations

import configparser
import functools
import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = (
    "spp-detect",
    "torch",
    "torchvision",
    "numpy",
    "opencv-contrib-python-headless",
    "scikit-learn",
)

ROOT = Path(__file__).resolve().parents[1]
# Set within a hook, for example, they make git answer for another repository than a folder's.
GIT_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")


def record_run() -> dict[str, Any]:
    """Describe this process: command, commit, versions, machine, peak memory so far.

    The commit, and the version of a library that is not installed as a package, may be None.
    """
    import torch  # here: the command line's help does without

    from spp_detect.threads import count_cores

    return {
        "command": _name_command(),
        "commit": find_commit(),
        "versions": {
            "python": platform.python_version(),
            **{n: find_version(n) for n in LIBRARIES},
        },
        "machine": {
            "processor": _name_processor(),
            "cores": count_cores(),
            "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "tf32": torch.cuda.is_available() and torch.backends.cudnn.allow_tf32,
        },
        "peak_memory_gb": round(_peak_memory() / 1e9, 3),
    }


def _name_command() -> str:
    """The command as one would type it again, scripts from the checkout's root."""
    program = Path(sys.argv[0])
    start = [program.name]
    if program.name == "__main__.py":
        start = ["python", "-m", program.resolve().parent.name]
    elif program.suffix == ".py":
        path = program.resolve()
        inside = path.is_relative_to(ROOT)
        start = ["python", str(path.relative_to(ROOT)) if inside else program.name]
    return shlex.join([*start, *sys.argv[1:]])


@functools.cache
def find_commit() -> str | None:
    """Find the commit of our own checkout, with a plus sign where files differ from it.

    It is that of the first call, which a program should make when it starts: files may change
    while a long run goes on.

    Returns
    -------
    str or None
        None where this package does not lie in a checkout of its own.
    """
    try:
        # Installed somewhere within another's repository, git would tell that one's commit.
        if not _is_our_root() or Path(_git("rev-parse", "--show-toplevel")).resolve() != ROOT:
            return None
        commit = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _is_our_root() -> bool:
    setup = configparser.ConfigParser()
    try:
        setup.read(ROOT / "setup.cfg", encoding="utf-8")
    except (configparser.Error, ValueError):
        return False
    return setup.get("metadata", "name", fallback=None) == "spp-detect"


def _git(*arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if name not in GIT_ELSEWHERE}
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments],
        env=env | {"GIT_OPTIONAL_LOCKS": "0"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def find_version(library: str) -> str | None:
    """Find the version of an installed package; None where it is not installed as one."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def _name_processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.processor()


def _peak_memory() -> int:
    """Largest resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
