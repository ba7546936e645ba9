"""What README says of other libraries, with the libraries themselves."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def example(small_detector, small_set):
    """The names that README's examples use."""
    photo = Image.open(small_set.photographs[0].path)
    found = small_detector.detect(photo)
    assert len(found) > 3
    return {"detector": small_detector, "found": found, "photo": photo}


def run_example(library, names):
    """Run the example of a library, found by its import."""
    (code,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
        if f"import {library} as" in block
    ]
    exec(code, names)
    return names


def test_supervision(example):
    pytest.importorskip("supervision")
    shown = run_example("supervision", example)["shown"]
    found = example["found"]
    assert len(shown) == len(found)
    np.testing.assert_allclose(shown.box_area, np.prod(found.boxes[:, 2:] - found.boxes[:, :2], 1))
    sure = shown[shown.confidence > np.median(found.scores)]
    assert len(sure) == (found.scores > np.median(found.scores)).sum()


def test_fiftyone(example):
    pytest.importorskip("fiftyone")
    labels = run_example("fiftyone", example)["labels"]
    found, photo = example["found"], example["photo"]
    assert len(labels.detections) == len(found)
    for one, (box, score, label) in zip(labels.detections, found, strict=True):
        x, y, width, height = np.array(one.bounding_box) * (photo.size * 2)
        np.testing.assert_allclose([x, y, x + width, y + height], box, atol=0.01)
        assert one.label == example["detector"].classes[label]
        assert one.confidence == pytest.approx(score)
