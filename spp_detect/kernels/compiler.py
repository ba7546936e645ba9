"""Whether Triton can compile kernels on this machine."""

from __future__ import annotations

import logging
import os
import sysconfig
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which

logger = logging.getLogger(__name__)


@cache
def can_compile() -> bool:
    """Whether Triton can compile; where it cannot, what it lacks is said once.

    It comes with torch on Linux, and builds with the machine's C compiler and Python's headers.
    """
    headers = _find_headers() / "Python.h"
    lacks = {
        "the package triton": find_spec("triton") is None,
        "a C compiler": not (os.environ.get("CC") or which("gcc") or which("clang")),
        f"Python's headers ({headers})": not headers.is_file(),
    }
    missing = [name for name, is_missing in lacks.items() if is_missing]
    if missing:
        logger.warning("pooling on the GPU has no kernel here and is slow: no %s", missing[0])
    return not missing


def _find_headers() -> Path:
    """Find where Triton looks for Python's headers."""
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    return Path(sysconfig.get_paths(scheme)["include"])
