"""What is wrong with detections, by the classes of the set."""

from pathlib import Path

import numpy as np
import pytest

from data import LabelledSet, Labels, Photograph
from eval import Detections
from spp_detect.evaluation import find_errors


@pytest.mark.parametrize(
    ("classes", "kind"),
    [(("cat", "dog"), "similar"), (("cat", "bottle"), "other"), (("cat", "dog", "zebra"), "other")],
)
def test_classes_are_similar_in_sets_of_vocs_classes_only(classes, kind):
    box = np.array([[0, 0, 10, 10]], np.float32)
    labels = Labels(box, np.array([1]), np.array([False]))
    photograph = Photograph("one", Path("one.jpg"), 20, 20, labels)
    found = Detections(box, np.array([0.5]), np.array([0]))
    errors = find_errors([found], LabelledSet(Path(), "test", classes, (photograph,)))
    assert errors.all_shares["cat"][kind] == 1
