"""Labels of whole photographs from hand-written XML, and AP beside that of detections."""

import numpy as np
import pytest
from PIL import Image

from data import open_dataset
from eval import Detections, Truths, evaluate_voc
from spp_detect.classification.image_labels import label_photographs, measure_ap

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
WHOLE = [[0.0, 0.0, 10.0, 10.0]]


@pytest.fixture
def voc(tmp_path):
    """Three photographs: a cat and a difficult one, a difficult cat and a dog, a difficult dog."""
    shown = {"a": [("cat", 0), ("cat", 1)], "b": [("cat", 1), ("dog", 0)], "c": [("dog", 1)]}
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for name, objects in shown.items():
        Image.new("RGB", (10, 10)).save(tmp_path / f"JPEGImages/{name}.jpg")
        inner = "".join(
            f"<object><name>{kind}</name><difficult>{hard}</difficult>{BOX}</object>"
            for kind, hard in objects
        )
        xml = tmp_path / f"Annotations/{name}.xml"
        xml.write_text(f"<annotation>{inner}</annotation>")
    (tmp_path / "ImageSets/Main/test.txt").write_text("a\nb\nc\n")
    return tmp_path


def test_labels_of_written_photographs(voc):
    labels = label_photographs(open_dataset(voc, "test", classes=("dog", "cat", "cow")))
    assert labels.tolist() == [[-1, 1, -1], [1, 0, -1], [0, -1, -1]]


@pytest.mark.parametrize("seed", range(5))
def test_ap_is_that_of_one_box_a_photograph(seed):
    """Detections that fill photographs, whose truths do: VOCevalcls is VOCevaldet then."""
    random = np.random.default_rng(seed)
    labels = random.choice([-1, 0, 1], (60, 3), p=[0.6, 0.15, 0.25])
    scores = random.integers(0, 40, (60, 3)) / 40.0  # with ties
    truths, found = [], []
    for own, given in zip(labels, scores, strict=True):
        there = np.flatnonzero(own >= 0)
        truths.append(Truths(np.array(WHOLE * len(there)).reshape(-1, 4), there, own[there] == 0))
        found.append(Detections(np.array(WHOLE * 3), given, np.arange(3)))
    result = evaluate_voc(found, truths, ["a", "b", "c"])
    np.testing.assert_allclose(measure_ap(scores, labels), [*result.ap.values()], rtol=1e-12)


def test_ap_by_hand():
    labels = np.array([[-1], [1], [1]])
    # Best first: wrong, right, right: precision at most 2/3 at every recall.
    assert measure_ap(np.array([[3.0], [2.0], [1.0]]), labels) == pytest.approx([2 / 3])
    assert np.isnan(measure_ap(np.ones((2, 1)), np.array([[0], [-1]]))).all()
