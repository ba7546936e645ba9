"""The demo in a fresh folder: every file that it promises, and a page whose pictures are there."""

import json
import re

import pytest
import torch
from PIL import Image

from spp_detect.experiments import demo
from spp_detect.training.run_folder import TrainingError


def test_a_small_demo_leaves_all_it_promises(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "TRUNK", demo.TRUNK | {"epochs": 1})
    monkeypatch.setattr(demo, "PHOTOGRAPHS", {"train": 8, "val": 12, "test": 5})
    monkeypatch.setattr(demo, "PHOTOGRAPHS_SHOWN", 3)
    monkeypatch.setattr(demo, "PHOTOGRAPHS_TIMED", 1)
    out = tmp_path / "demo"
    for _ in range(2):  # and again where one has been
        numbers = demo.run_demo(out, torch.device("cpu"), seed=0)
        assert 0 <= numbers["mAP"] <= 1
        assert json.loads((out / "metrics.json").read_text())["mAP"] == numbers["mAP"]
        assert numbers["speedup"] > 0
        assert (out / "benchmark" / "benchmark.json").is_file()
        page = (out / "report" / "index.html").read_text()
        pictures = re.findall(r'src="([^"]+)"', page)
        assert len(pictures) == 5
        for address in pictures:
            Image.open(out / "report" / address).verify()
        Image.open(out / "report" / "detections.png").verify()
        assert (out / "detections" / "index.html").is_file()
        assert len(list((out / "evaluation").glob("comp4_det_test_*.txt"))) == 5


def test_files_of_others_stay(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="holds files that are no earlier demo's"):
        demo.run_demo(tmp_path, torch.device("cpu"), seed=0)
    assert (tmp_path / "report" / "mine.txt").read_text() == "mine"
