"""In which number format convolutions and fc layers are computed where nothing is learnt."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch


def use_precision(name: str, device: torch.device) -> torch.autocast:
    """Make the context in which a trunk or fc layers run.

    Parameters
    ----------
    name : str
        float32, bfloat16, or auto: bfloat16 where the device multiplies it faster.
    device : torch.device
        A CPU or a GPU.
    """
    # A weight that is rounded once for several uses has their gradients summed in bfloat16, and
    # another thread that leaves such a context lets it be rounded anew, at any time.
    return torch.autocast(
        device.type, torch.bfloat16, enabled=_is_half(name, device), cache_enabled=False
    )


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for matrix products of bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(_find_instructions() & {"avx512_bf16", "amx_bf16"})


@cache
def _find_instructions() -> set[str]:
    """What the processor can do, by torch, or by Linux where torch is one that does not tell."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, has in torch.cpu.get_capabilities().items() if has}
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.is_file() else []
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def find_dtype(name: str, device: torch.device) -> str:
    """The number format that `use_precision` chooses, by name."""
    return "bfloat16" if _is_half(name, device) else "float32"


def _is_half(name: str, device: torch.device) -> bool:
    return name == "bfloat16" or (name == "auto" and has_fast_bfloat16(device))
