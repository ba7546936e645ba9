"""Files that are never half written: made beside their place, then moved into it."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import save_file


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it takes its place, on failure it goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
        )
    except OSError as error:
        error.filename = str(path)
        raise
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    except SafetensorError as error:
        raise OSError(errno.EIO, str(error), str(path)) from error
    except OSError as error:
        if error.errno is None:  # NumPy's, of a message alone
            raise OSError(errno.EIO, str(error) or "cannot be written", str(path)) from error
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(run: Path) -> None:
    """Remove the temporary files of a run that was killed while it wrote; nothing else hidden."""
    names = ("run", "model", "config", "metrics", "history", "finetuning", "photographs", "index")
    beside = [path for name in names for path in run.glob(f".{name}-*")]
    for path in [*beside, *(run / "work").rglob(".*")]:
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write json whole or not at all; NaN stands as the word NaN, as Python reads it."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file whole or not at all."""
    with replace_file(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a .safetensors file whole or not at all."""
    with replace_file(path) as temporary:
        save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, temporary)
