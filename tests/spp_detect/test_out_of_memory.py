"""Memory that does not suffice for one photograph: the others are detected in."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from data import read_photo
from spp_detect.backbones import build_backbone
from spp_detect.config import make_run_config
from spp_detect.features import Trunk
from spp_detect.out_of_memory import is_out_of_memory, work_in_batches
from spp_detect.rcnn import RcnnExtractor

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


def work_that_fits(most):
    """A work on rows for whose batches a GPU's memory suffices up to a size, and what was done."""
    done = []

    def work(start, size):
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        done.append((start, size))

    return work, done


def test_batches_are_halved_until_they_fit_and_what_is_done_stays_done(caplog):
    work, done = work_that_fits(3)
    assert work_in_batches(work, 8, 12) == 3
    assert done == [(0, 3), (3, 3), (6, 3)]
    assert len(caplog.messages) == 2 and "batches of 12: halved" in caplog.messages[0]
    caplog.clear()
    assert work_in_batches(work, 5, 3) == 3 and not caplog.messages


def test_a_row_that_does_not_fit_is_an_error():
    work, done = work_that_fits(0)
    with pytest.raises(torch.OutOfMemoryError):
        work_in_batches(work, 2, 4)
    assert not done


def test_rcnn_goes_on_in_smaller_batches(small_set, monkeypatch, caplog):
    backbone = build_backbone("small5")
    photo = read_photo(small_set.photographs[0].path)
    windows = np.array([[k, k, k + 30, k + 40] for k in range(11)], np.float32)
    config = make_run_config(backbone="small5", extractor="rcnn").model
    extractor = RcnnExtractor(backbone, config, torch.device("cpu"))
    wanted = extractor.compute_maps(photo).pool(windows).features
    compute = Trunk.__call__

    def run_short(trunk, crops):
        if len(crops) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return compute(trunk, crops)

    monkeypatch.setattr(Trunk, "__call__", run_short)
    found = extractor.compute_maps(photo).pool(windows).features
    torch.testing.assert_close(found, wanted)
    assert extractor.batch == 2 and len(caplog.messages) == 2
    extractor.compute_maps(photo).pool(windows)
    assert len(caplog.messages) == 2
