"""Several models together: against one alone, and by a slow NMS over the union."""

import dataclasses

import numpy as np
import pytest
import torch

from data import read_photo
from proposals import propose
from spp_detect import cli
from spp_detect.config import make_config
from spp_detect.detector import Detector
from spp_detect.ensemble import CombinedDetector, load_detector
from spp_detect.heads import Heads
from spp_detect.model_folder import ModelError
from spp_detect.postprocess import ScoredWindows, select_detections


@pytest.fixture(scope="module")
def other_detector(small_detector):
    """The same trunk under other heads."""
    torch.manual_seed(1)
    heads = {
        name: tensor + 0.3 * tensor.std() * torch.randn_like(tensor)
        for name, tensor in small_detector.heads.state_dict().items()
    }
    return Detector(
        small_detector.config, small_detector.classes, small_detector.extractor, Heads(**heads)
    )


@pytest.fixture(scope="module")
def photo(small_set):
    return read_photo(small_set.photographs[1].path)


def assert_equal(ours, theirs):
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-3)  # votes sum in another order


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("regress", [True, False])
def test_one_model_beside_itself_finds_what_it_finds_alone(small_detector, photo, count, regress):
    unraised = small_detector.change(support=0.0)
    alone = unraised.detect(photo, regress=regress)
    together = CombinedDetector([unraised] * count).detect(photo, regress=regress)
    assert len(alone.boxes) > 5
    assert_equal(together, alone)
    alone = small_detector.detect(photo, regress=regress)
    together = CombinedDetector([small_detector] * count).detect(photo, regress=regress)
    np.testing.assert_allclose(together.scores, alone.scores, atol=1e-6)  # sums in another order


def test_votes_of_two_models_count_half_each(small_detector, other_detector, photo):
    windows = propose(photo, small_detector.proposal_settings)[:150]
    members = small_detector, other_detector
    plain, raised = (
        CombinedDetector([one.change(support=s) for one in members]).detect(photo, windows)
        for s in (0.0, 0.3)
    )
    config = small_detector.config
    scored = [one for d in members for one in d.score_passes(photo, windows, config.passes)]
    unvoted = CombinedDetector(members).change(vote_iou=None).detect(photo, windows)
    wanted = []
    for box, score, c in unvoted:  # where NMS leaves them, before the vote moves them
        boxes = [(b, s) for one in scored for b, s in zip(one.boxes, one.scores[:, c], strict=True)]
        votes = sum(max(0, s.item() + 1) / 2 for b, s in boxes if overlap(box, b.numpy()) >= 0.6)
        wanted.append(score + 0.3 * np.log(1 + votes))
    np.testing.assert_array_equal(plain.scores, unvoted.scores)
    np.testing.assert_allclose(raised.scores, np.sort(wanted)[::-1], atol=1e-4)
    assert (raised.scores > plain.scores + 0.01).any()


def test_support_is_the_least_of_all_whoever_is_first(small_detector):
    older = small_detector.change(support=0.0)
    for members in ([small_detector, older], [older, small_detector]):
        assert CombinedDetector(members).config.support == 0
    assert CombinedDetector([small_detector] * 2).config.support == 0.15


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inter = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inter / (sum(areas) - inter)


def test_equals_a_slow_nms_over_both_models_windows(small_detector, other_detector, photo):
    windows = propose(photo, small_detector.proposal_settings)[:150]
    config = small_detector.config
    together = CombinedDetector([small_detector, other_detector])
    found = together.detect(photo, windows, regress=False)
    scores = [d.score(photo, windows).scores.numpy() for d in (small_detector, other_detector)]
    for c in range(len(small_detector.classes)):
        union = [(s[i, c], i) for s in scores for i in range(len(windows))]
        union = [one for one in union if one[0] > config.score_threshold]
        union.sort(key=lambda one: -one[0])  # stable: of equals the first
        kept = []
        for score, i in union:
            if all(overlap(windows[i], windows[j]) <= config.nms_iou for _, j in kept):
                kept.append((score, i))
        kept = kept[: config.max_detections]
        np.testing.assert_allclose(found.scores[found.labels == c], [s for s, _ in kept])
        np.testing.assert_array_equal(
            found.boxes[found.labels == c], np.array([windows[i] for _, i in kept]).reshape(-1, 4)
        )
    for member in together.members:  # both had their say
        alone = member.detect(photo, windows, regress=False)
        assert not np.array_equal(alone.scores, found.scores)


def test_each_box_is_moved_by_its_own_models_regression():
    """Two windows far apart, each best for another model; one shifts right, the other down."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 70.0, 70.0]])
    shifts = ([0.1, 0.0, 0.0, 0.0], [0.0, 0.1, 0.0, 0.0])
    scored = []
    for k, shift in enumerate(shifts):
        heads = Heads(
            torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 3, 4), torch.tensor([shift])
        )
        scores = torch.tensor([[1.0 - k], [0.5 + k]])
        scored.append(
            ScoredWindows(boxes, scores, torch.zeros(2, 3), torch.arange(2), (100, 100), heads)
        )
    found = select_detections(scored, make_config(passes=1), vote=False)
    np.testing.assert_allclose(found.scores, [1.5, 1.0])
    np.testing.assert_allclose(found.boxes, [[50, 52, 70, 72], [1, 0, 11, 10]], atol=1e-5)


def test_models_of_other_classes_are_refused(small_detector):
    config = dataclasses.replace(small_detector.config)
    names = ("a", *small_detector.classes[1:])
    other = Detector(config, names, small_detector.extractor, small_detector.heads)
    with pytest.raises(ModelError, match="different classes: a, "):
        CombinedDetector([small_detector, other])


def test_from_the_command_line(small_model, small_voc, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", str(small_model), str(small_model), str(small_voc), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["spp-detect", *arguments, "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert (out / "metrics.json").is_file()
    assert isinstance(load_detector([small_model, small_model], "cpu"), CombinedDetector)
    assert isinstance(load_detector([small_model], "cpu"), Detector)
