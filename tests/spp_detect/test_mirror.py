"""A photograph's mirror image at test time: what is said of both is averaged."""

import dataclasses

import numpy as np
import pytest
import torch

from bbox_regression import decode
from data import read_photo
from proposals import propose
from spp_detect.cascade import FirstStage
from spp_detect.detector import Detector
from spp_detect.ensemble import CombinedDetector
from spp_detect.fixed_shapes import Found
from spp_detect.mirror import mirror_boxes, mirror_photo
from spp_detect.rcnn import RcnnExtractor


@pytest.fixture(scope="module")
def photo(small_set):
    return read_photo(small_set.photographs[0].path)


@pytest.fixture(scope="module")
def windows(small_detector, photo):
    return propose(photo, small_detector.proposal_settings)[:200]


def detect_mirrored(detect, photo, windows):
    """Detect in the mirror image, and bring what is found back."""
    width = photo.shape[1]
    found = detect(mirror_photo(photo), mirror_boxes(windows, width))
    return dataclasses.replace(found, boxes=mirror_boxes(found.boxes, width))


def differ(found, wanted):
    """By how much the best detections' scores differ."""
    return np.abs(found.scores[:10] - wanted.scores[:10]).max()


@pytest.mark.parametrize("changes", [{}, {"passes": 1}, {"vote_iou": None}])
@pytest.mark.parametrize("way", ["as ever", "in fixed shapes"])
def test_left_and_right_are_the_same(small_detector, photo, windows, changes, way):
    """With mirror images the mirror image of a photograph gives mirrored detections."""

    def detect(photo, windows):
        if way == "as ever":
            return detector.detect(photo, windows)
        return Found.send(detector.find_all(photo, windows)).read()

    detector = small_detector.change(**changes)
    assert differ(detect(photo, windows), detect_mirrored(detect, photo, windows)) > 0.01
    detector = small_detector.change(**changes, mirror=True)
    found, turned = detect(photo, windows), detect_mirrored(detect, photo, windows)
    assert len(found) == len(turned) > 3
    np.testing.assert_array_equal(found.labels, turned.labels)
    np.testing.assert_allclose(found.scores, turned.scores, atol=1e-4)
    np.testing.assert_allclose(found.boxes, turned.boxes, atol=1e-2)


def test_scores_are_the_mean_of_both(small_detector, photo, windows):
    there = mirror_boxes(windows, photo.shape[1])
    own = small_detector.score(photo, windows).scores
    turned = small_detector.score(mirror_photo(photo), there).scores
    assert (own - turned).abs().max() > 0.1
    both = small_detector.change(mirror=True).score(photo, windows).scores
    torch.testing.assert_close(both, (own + turned) / 2, rtol=0, atol=1e-6)


def test_windows_are_moved_by_the_mean_of_both(small_detector, photo, windows):
    there, rows = mirror_boxes(windows, photo.shape[1]), np.arange(0, 200, 7)
    classes = rows % len(small_detector.classes)

    def find_targets(photo, windows):
        scored, heads = small_detector.score(photo, windows), small_detector.heads
        features = scored.features[scored.inverse].double().numpy()
        coef, intercept = heads.regression_coef.double().numpy(), heads.regression_intercept
        pairs = zip(rows, classes, strict=True)
        return np.stack([features[i] @ coef[c] + intercept[c].numpy() for i, c in pairs])

    own, turned = find_targets(photo, windows), find_targets(mirror_photo(photo), there)
    turned[:, 0] *= -1  # to the left there is to the right here
    size = photo.shape[1::-1]
    wanted = decode(windows[rows], (own + turned) / 2, size)
    scored = small_detector.change(mirror=True).score(photo, windows)
    np.testing.assert_allclose(scored.move(rows, classes), wanted, atol=1e-2)
    assert np.abs(decode(windows[rows], own, size) - wanted).max() > 0.5


def test_a_cascades_fc_layers_see_the_same_windows_in_both(small_detector, photo, windows):
    """Those that are promising in the photograph itself."""
    torch.manual_seed(0)
    classes, length = len(small_detector.classes), small_detector.extractor.length
    first = FirstStage(torch.randn(classes, length), torch.zeros(classes))
    config = dataclasses.replace(small_detector.config, promising=20)
    parts = small_detector.classes, small_detector.extractor, small_detector.heads, None, first
    cascade = Detector(config, *parts)
    scored = cascade.change(mirror=True).score(photo, windows)
    np.testing.assert_array_equal(scored.boxes, cascade.score(photo, windows).boxes)
    assert 20 <= len(scored.boxes) < len(windows)
    wanted = small_detector.change(mirror=True).score(photo, scored.boxes.numpy()).scores
    torch.testing.assert_close(scored.scores, wanted, rtol=0, atol=1e-5)


def test_with_rcnn(small_detector, photo, windows):
    config = small_detector.config
    extractor = RcnnExtractor(small_detector.extractor.backbone, config, torch.device("cpu"))
    plain = Detector(config, small_detector.classes, extractor, small_detector.heads)
    some, there = windows[:9], mirror_boxes(windows[:9], photo.shape[1])
    own = plain.score(photo, some).scores
    turned = plain.score(mirror_photo(photo), there).scores
    both = plain.change(mirror=True).score(photo, some).scores
    torch.testing.assert_close(both, (own + turned) / 2, rtol=0, atol=1e-4)


def test_models_together_look_at_both_sides(small_detector, photo, windows):
    known = small_detector.calibration
    together = CombinedDetector([small_detector, small_detector]).change(mirror=True)
    alone = small_detector.change(mirror=True).score(photo, windows)
    wanted = alone if known is None else alone.calibrate(known)
    for scored in together.score_passes(photo, windows, 1):
        assert torch.equal(scored.scores, wanted.scores)
