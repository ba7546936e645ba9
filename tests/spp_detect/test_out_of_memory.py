"""Memory that does not suffice for one photograph: the others are detected in."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from spp_detect.out_of_memory import is_out_of_memory

# As `detect`, in a process that may have little memory more than it has after a first photograph.
PROGRAM = """
import resource, sys
from pathlib import Path
from spp_detect import Detector
from spp_detect.folders import report_folder

run, folder, out = map(Path, sys.argv[1:])
detector = Detector.load(run, "cpu")
detector.detect(str(folder / "a.jpg"))
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 400_000_000
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
report_folder(detector, folder, out, -5.0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_photograph_too_large_for_the_memory_is_that_ones_failure(
    small_model, small_set, tmp_path
):
    folder, out = tmp_path / "photos", tmp_path / "out"
    folder.mkdir()
    small = Image.open(small_set.photographs[0].path)
    for name in ("a", "c"):
        small.save(folder / f"{name}.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    Image.fromarray(noise).resize((9000, 7000), Image.Resampling.NEAREST).save(folder / "b.jpg")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, small_model, folder, out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((out / "detections.json").read_text())
    assert {row["image_id"] for row in found} == {"a.jpg", "c.jpg"}
    rows = (out / "photographs.csv").read_text().splitlines()
    (failed,) = [row for row in rows if row.startswith("b.jpg")]
    assert "memory" in failed


def test_errors_of_memory_are_known():
    assert is_out_of_memory(MemoryError())
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpys:
        np.empty(1 << 60, np.uint8)
    assert is_out_of_memory(numpys.value)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(cv2.error("unknown"))
    assert not is_out_of_memory(ValueError("out of memory"))
