"""What is freed between pieces in use goes back to the system."""

import os
import platform
import subprocess
import sys
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


# Faults of a page are what taking fresh memory costs. What is not touched costs nothing, however
# much it is.
TAKE_AND_FREE = """
import contextlib, resource, sys
import numpy as np
from spp_detect.heap import keeping_freed

def count_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def measure(column):
    return int(open("/proc/self/statm").read().split()[column]) * resource.getpagesize()

def take():
    pieces = [np.ones(50_000_000, np.uint8) for _ in range(4)]

take()
start = measure(1)
with keeping_freed() if sys.argv[1] == "keep" else contextlib.nullcontext():
    take()
    before = count_faults()
    for _ in range(5):
        take()
    print(count_faults() - before)
    untouched = [np.empty(2**30, np.uint8) for _ in range(3)]
    before = measure(0)
    del untouched
    print(before - measure(0))
print(measure(1) - start)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_large_pieces_are_kept_while_it_is_asked_for() -> None:
    def run(word: str) -> list[int]:
        command = [sys.executable, "-c", TAKE_AND_FREE, word]
        without_huge_pages = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"}
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=without_huge_pages
        )
        return [int(number) for number in done.stdout.split()]

    (faults, handed_back, _), (kept_faults, kept_back, left) = run("usual"), run("keep")
    assert kept_faults < faults / 10
    assert (handed_back, kept_back) == (pytest.approx(3 * 2**30, rel=0.01), 0)
    assert left < 20_000_000


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
