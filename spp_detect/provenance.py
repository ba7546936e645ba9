"""What a measured number must be read with: command, commit, versions, machine."""

from __future__ import annotations

import os
import platform
import resource
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

LIBRARIES = (
    "spp-detect",
    "torch",
    "torchvision",
    "numpy",
    "opencv-contrib-python-headless",
    "scikit-learn",
)

ROOT = Path(__file__).resolve().parents[1]


def describe_run() -> dict[str, Any]:
    """Describe this process: command, commit, versions, machine, peak memory so far."""
    return {
        "command": _name_command(),
        "commit": COMMIT,
        "versions": {"python": platform.python_version(), **{n: version(n) for n in LIBRARIES}},
        "machine": {
            "processor": _name_processor(),
            "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
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


def _find_commit() -> str | None:
    """The checkout's commit, with a plus sign where files differ from it; None outside one."""
    try:
        commit = _git(ROOT, "rev-parse", "--short=12", "HEAD")
        changed = _git(ROOT, "status", "--porcelain", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()


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


# Read when the program starts: files may change while a long run goes on.
COMMIT = _find_commit()
