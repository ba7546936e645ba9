"""What is freed between pieces in use goes back to the system."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest

from spp_detect import prefetch
from spp_detect.heap import hand_back

PIECE = 100_000  # bytes: below what the allocator maps by itself, however it was used before


def measure_resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_what_was_freed_between_pieces_in_use_goes_back() -> None:
    pieces = [np.ones(PIECE, np.uint8) for _ in range(2000)]
    kept = pieces[::2]
    del pieces
    before = measure_resident()
    hand_back()
    assert before - measure_resident() > 0.8 * 1000 * PIECE
    assert all(piece.all() for piece in kept)


def test_memory_goes_back_while_photographs_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    monkeypatch.setattr(prefetch, "hand_back", lambda: events.append("hand back"))
    paths = [tmp_path / f"{n}.jpg" for n in range(33)]  # none is there, each is an error
    for path, _ in prefetch.prepare_photos(paths, lambda path, photo: np.zeros((0, 4), np.float32)):
        events.append(path.stem)
    numbers = [str(n) for n in range(33)]
    assert events == [*numbers[:16], "hand back", *numbers[16:32], "hand back", numbers[32]]
