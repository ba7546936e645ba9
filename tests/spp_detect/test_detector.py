"""Detection against a slow reading of the method's text; model folders, whole and damaged."""

import dataclasses
import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data import DataError, read_photo
from proposals import propose
from spp_detect import Config, Detector, ModelError
from spp_detect.cascade import FirstStage
from spp_detect.config import ConfigError, TrainingConfig
from spp_detect.ensemble import CombinedDetector
from spp_detect.fc import FcLayers
from spp_detect.features import Trunk
from spp_detect.heads import Heads
from spp_detect.kernels.product import multiply_rows
from spp_detect.prefetch import prepare_photos, search_windows
from spp_detect.rcnn import BATCHES, RcnnExtractor
from spp_detect.spp import SppExtractor


@pytest.fixture()
def photo(small_set):
    return read_photo(small_set.photographs[0].path)


def overlap(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    inside = max(0.0, width) * max(0.0, height)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inside / (areas - inside) if areas > inside else 0.0


def suppress(boxes, scores, threshold=-1.5, iou=0.3, most=100):
    """Greedy NMS in plain Python: indices kept, best first."""
    order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > threshold]
    kept = []
    for i in order:
        if all(overlap(boxes[i], boxes[k]) <= iou for k in kept):
            kept.append(i)
    return kept[:most]


def vote(box, moved, scores, least=-1.0, iou=0.5):
    """The average of the windows around a box, each as often as it scores above least."""
    near = [i for i in range(len(moved)) if scores[i] > least and overlap(box, moved[i]) >= iou]
    if not near:
        return box
    return np.average([moved[i] for i in near], axis=0, weights=[scores[i] - least for i in near])


def raise_score(score, box, moved, scores, least=-1.0, iou=0.6):
    """A score and what the windows around a box add to it."""
    near = [i for i in range(len(moved)) if scores[i] > least and overlap(box, moved[i]) >= iou]
    return score + 0.15 * np.log(1 + sum(scores[i] - least for i in near))


def look_slowly(detector, maps, windows, c, size):
    """Scores of windows for a class, and where the class's regression moves them, one by one."""
    heads, scores, moved = detector.heads, [], []
    for window in windows:
        features = maps.pool(window[None].astype(np.float32)).features[0].double().numpy()
        scores.append(features @ heads.svm_coef[c].double().numpy() + heads.svm_intercept[c].item())
        x1, y1, x2, y2 = window.astype(float)
        targets = features @ heads.regression_coef[c].double().numpy()
        dx, dy, dw, dh = targets + heads.regression_intercept[c].double().numpy()
        w, h = x2 - x1, y2 - y1
        cx, cy = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h
        w, h = w * np.exp(dw), h * np.exp(dh)
        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        moved.append(np.clip(box, 0, [*size, *size]))
    return np.array(scores), np.array(moved).reshape(-1, 4)


def detect_slowly(detector, photo, windows):
    """Detections as rows: label, score, the boxes that it may be, class by class.

    Windows of several passes on the same cells have one score; which of them is kept is rounding's
    choice. So a detection may be what any of those becomes that score as the kept one does.
    """
    maps, size = detector.extractor.compute_maps(photo), photo.shape[1::-1]
    rows = []
    for c in range(len(detector.classes)):
        scores, moved = look_slowly(detector, maps, windows, c, size)
        if detector.config.passes == 1:
            kept = suppress(windows, scores)
            again = suppress(moved[kept], scores[kept])
            places = [kept[k] for k in again]
            for k in places:
                score = raise_score(scores[k], moved[k], moved, scores)
                rows.append((c, score, [vote(moved[k], moved, scores)]))
            continue
        boxes, all_scores = [windows], [scores]
        moved = moved[scores > -1]
        for _ in range(detector.config.passes - 1):
            boxes.append(moved)
            scores, moved = look_slowly(detector, maps, moved, c, size)
            all_scores.append(scores)
        boxes, scores = np.concatenate(boxes), np.concatenate(all_scores)
        for k in suppress(boxes, scores):
            tied = np.flatnonzero(np.abs(scores - scores[k]) < 1e-5)
            score = scores[k]
            if detector.config.support and len(tied) == 1:  # of tied ones it is not known
                score = raise_score(score, boxes[k], boxes, scores)
            rows.append((c, score, [vote(boxes[i], boxes, scores) for i in tied]))
    return sorted(rows, key=lambda row: -row[1])


def with_constants(detector, **changes):
    """The same detector with other constants of test time."""
    config = dataclasses.replace(detector.config, **changes)
    return Detector(config, detector.classes, detector.extractor, detector.heads)


def test_votes_raise_scores_after_several_passes(small_detector, photo):
    """Of the boxes that are known for certain."""
    windows = propose(photo, small_detector.proposal_settings)[:150]
    found = small_detector.detect(photo, windows)
    expected = detect_slowly(small_detector, photo, windows)
    certain = [(c, score, boxes[0]) for c, score, boxes in expected if len(boxes) == 1]
    assert len(certain) > 5 and len(expected) == len(found)
    for c, score, box in certain:
        same = (found.labels == c) & (np.abs(found.boxes - box).max(axis=1) < 1e-2)
        assert np.abs(found.scores[same] - score).min() < 1e-4


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_detect_equals_the_slow_reading(small_detector, photo, passes):
    # What tied windows' votes add is not known for certain.
    support = {} if passes == 1 else {"support": 0.0}
    detector = with_constants(small_detector, passes=passes, **support)
    windows = propose(photo, detector.proposal_settings)[:150]
    found = detector.detect(photo, windows)
    expected = detect_slowly(detector, photo, windows)
    assert len(found.scores) == len(expected) > 5
    np.testing.assert_allclose(found.scores, [row[1] for row in expected], atol=1e-4)
    assert found.labels.tolist() == [row[0] for row in expected]
    for box, (_, _, boxes) in zip(found.boxes, expected, strict=True):
        assert min(np.abs(box - one).max() for one in boxes) < 1e-2
    # Most are not tied: their boxes are known for certain.
    assert np.mean([len(boxes) == 1 for _, _, boxes in expected]) > 0.6


def test_constants_of_test_time_are_changed_and_no_others(small_detector, photo):
    changed = small_detector.change(passes=1, vote_iou=None, max_detections=3)
    assert changed.config == dataclasses.replace(
        small_detector.config, passes=1, vote_iou=None, max_detections=3
    )
    assert np.bincount(changed.detect(photo).labels).max() == 3
    together = CombinedDetector([small_detector] * 2).change(max_detections=3)
    assert np.bincount(together.detect(photo).labels).max() == 3
    with pytest.raises(ConfigError, match=r"^levels: expected a constant of test time: score_"):
        small_detector.change(levels=(1,))
    with pytest.raises(ConfigError, match="passes 0"):
        small_detector.change(passes=0)


def test_only_the_most_promising_windows_are_scored_again(small_detector, photo):
    detector = with_constants(small_detector, max_windows=7)
    windows = propose(photo, small_detector.proposal_settings)[:150]
    first, second, third = detector.score_passes(photo, windows, 3)
    best = np.sort(first.scores.numpy(), axis=None)[-7:]
    assert best[0] > -1  # there are more
    for again in (second, third):
        assert again.scores.shape == (7, len(detector.classes))
        assert (torch.isfinite(again.scores).sum(dim=1) == 1).all()
    # Where they are scored again they score as any window there.
    there = detector.score(photo, second.boxes.numpy()).scores
    own = torch.isfinite(second.scores)
    torch.testing.assert_close(second.scores[own], there[own])
    assert detector.score_passes(photo, windows[:0], 3)[0].scores.shape[0] == 0


def test_detect_proposes_its_own_windows(small_detector, photo):
    windows = propose(photo, small_detector.proposal_settings)
    assert small_detector.detect(photo) == small_detector.detect(photo, windows)


def test_without_regression_boxes_are_windows(small_detector, photo):
    windows = propose(photo, small_detector.proposal_settings)
    found = small_detector.detect(photo, windows, regress=False)
    known = {tuple(window) for window in windows.tolist()}
    assert len(found.boxes) > 0
    assert all(tuple(box) in known for box in found.boxes.tolist())


def test_no_windows_no_detections(small_detector, photo):
    found = small_detector.detect(photo, np.zeros((0, 4), np.float32))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.labels.shape == (0,)


def test_threshold_and_most_detections_hold(small_detector, photo):
    found = small_detector.detect(photo)
    assert (found.scores > -1.5).all()
    assert np.bincount(found.labels).max() <= 100
    assert (np.diff(found.scores) <= 0).all()


def test_save_and_load_detect_the_same(small_detector, photo, tmp_path):
    small_detector.save(tmp_path)
    again = Detector.load(tmp_path, "cpu")
    assert again.classes == small_detector.classes
    assert again.config == small_detector.config
    assert again.training == small_detector.training
    assert small_detector.detect(photo) == again.detect(photo)


def test_prepared_photographs_keep_their_order(small_set, small_detector):
    paths = [photograph.path for photograph in small_set]
    source = search_windows(small_detector.proposal_settings)
    prepared = list(prepare_photos(paths, source))
    assert [path for path, _ in prepared] == paths
    for path, (photo, windows) in prepared[:3]:
        np.testing.assert_array_equal(photo, read_photo(path))
        np.testing.assert_array_equal(windows, propose(photo, small_detector.proposal_settings))


def test_detect_folder_from_python(small_detector, small_set, tmp_path, caplog, capsys):
    for photograph in small_set.photographs[:2]:
        shutil.copy(photograph.path, tmp_path)
    (tmp_path / "bad.jpg").write_bytes(b"no photograph")
    found = dict(small_detector.detect_folder(tmp_path))
    (told,) = caplog.records
    assert told.name.split(".")[0] == "spp_detect"
    assert told.levelname == "WARNING"
    assert "bad.jpg" in told.getMessage()
    assert capsys.readouterr() == ("", "")
    assert sorted(path.name for path in found) == sorted(
        photograph.path.name for photograph in small_set.photographs[:2]
    )


def test_detect_takes_any_form_of_a_photograph(small_detector, small_set):
    path = small_set.photographs[0].path
    photo = read_photo(path)
    expected = small_detector.detect(photo)
    assert len(expected.scores)
    assert small_detector.detect(path) == expected
    assert small_detector.detect(str(path)) == expected
    with Image.open(path) as image:
        assert small_detector.detect(image) == expected
    assert small_detector.detect(photo[:, :, ::-1], bgr=True) == expected
    grey = np.ascontiguousarray(photo[:, :, 0])
    assert small_detector.detect(grey) == small_detector.detect(np.dstack([grey] * 3))


def test_detect_takes_lists(small_detector, small_set):
    paths = [photograph.path for photograph in small_set.photographs[:2]]
    photos = [read_photo(path) for path in paths]
    expected = [small_detector.detect(photo) for photo in photos]
    for given in (paths, tuple(photos), [paths[0], photos[1]]):
        found = small_detector.detect(given)
        assert isinstance(found, list)
        for one, its in zip(found, expected, strict=True):
            assert one == its
    assert small_detector.detect([]) == []
    windows = [propose(photo, small_detector.proposal_settings)[:40] for photo in photos]
    for one, photo, its in zip(small_detector.detect(paths, windows), photos, windows, strict=True):
        assert one == small_detector.detect(photo, its)


def test_detect_refuses_what_is_no_photograph(small_detector, tmp_path):
    with pytest.raises(DataError, match=r"float64 \(4, 4\): expected a path, a PIL image"):
        small_detector.detect(np.eye(4))
    with pytest.raises(DataError, match=r"missing\.jpg: no such file"):
        small_detector.detect([tmp_path / "missing.jpg"])
    with pytest.raises(ValueError, match="2 photographs, windows of 1: expected of each"):
        small_detector.detect(["a.jpg", "b.jpg"], [np.zeros((1, 4), np.float32)])


class Recorder:
    """A watch that writes down when stages begin and end."""

    def __init__(self):
        self.steps = []

    @contextmanager
    def __call__(self, stage):
        self.steps.append(f"<{stage}")
        yield
        self.steps.append(f"{stage}>")


def in_turn(*stages):
    return [step for stage in stages for step in (f"<{stage}", f"{stage}>")]


@pytest.fixture(scope="module")
def make_detector(small_detector):
    """Makes a detector of the small one's trunk with fc6, its heads at random."""

    def make(kind, **changes):
        torch.manual_seed(0)
        config = dataclasses.replace(small_detector.config, feature="fc6", fc_width=8, **changes)
        extractor = kind(small_detector.extractor.backbone, config, torch.device("cpu"))
        classes = len(small_detector.classes)
        heads = Heads.empty(classes, extractor.length, 8)
        heads.svm_coef.normal_()
        return Detector(
            config, small_detector.classes, extractor, heads, FcLayers(extractor.length, 8, 1)
        )

    return make


SOME_WINDOWS = np.array([[0, 0, 40, 40], [10, 20, 90, 100], [10, 20, 90, 100]], np.float32)


@pytest.mark.parametrize("scales", [(160,), (96, 160)])
def test_stages_are_announced_in_order(make_detector, photo, scales):
    detector, watch = make_detector(SppExtractor, scales=scales), Recorder()
    scored = detector.score(photo, SOME_WINDOWS, watch)
    assert watch.steps == in_turn("conv", "pooling", "fc", "classification")
    assert torch.equal(scored.scores, detector.score(photo, SOME_WINDOWS).scores)


def test_stages_of_rcnn_are_announced_in_order(make_detector, photo):
    """Its convolutions go on window by window: batch by batch it warps and pools in between."""
    detector, watch = make_detector(RcnnExtractor), Recorder()
    windows = np.array([[k, k, k + 30, k + 40] for k in range(BATCHES["cpu"] + 1)], np.float32)
    scored = detector.score(photo, windows, watch)
    batches = in_turn("warp", "pooling", "warp", "pooling")
    conv = ["<conv", "conv>", "<conv", *batches, "conv>"]
    assert watch.steps == [*conv, *in_turn("fc", "classification")]
    assert torch.equal(scored.scores, detector.score(photo, windows).scores)


def test_stages_are_worked_in_while_they_are_announced(make_detector, photo, monkeypatch):
    """What a timer counts for each is that stage's work."""
    detector, watch = make_detector(SppExtractor), Recorder()
    inner = {
        "trunk": (Trunk, "__call__"),
        "pyramid": (detector.extractor.pyramids[0], "pool_on_maps"),
        "layers": (detector.fc, "infer"),
    }
    for name, (owner, attribute) in inner.items():
        real = getattr(owner, attribute)

        def work(*arguments, name=name, real=real):
            watch.steps.append(name)
            return real(*arguments)

        monkeypatch.setattr(owner, attribute, work)

    def score(*arguments):
        watch.steps.append("svms")
        return multiply_rows(*arguments)

    monkeypatch.setattr("spp_detect.heads.multiply_rows", score)
    detector.score(photo, SOME_WINDOWS, watch)
    assert watch.steps == [
        *("<conv", "trunk", "conv>"),
        *("<pooling", "pyramid", "pooling>"),
        *("<fc", "layers", "fc>"),
        *("<classification", "svms", "classification>"),
    ]


@pytest.mark.parametrize("kind", [SppExtractor, RcnnExtractor])
@pytest.mark.parametrize("promising", [0, 2])
def test_moved_windows_are_scored_as_any_others(make_detector, photo, kind, promising):
    plain = make_detector(kind)
    plain.heads.regression_intercept.normal_(0, 0.2)
    detector = plain
    if promising:
        length = plain.extractor.length
        first = FirstStage(torch.randn(len(plain.classes), length), torch.zeros(1))
        config = dataclasses.replace(plain.config, promising=promising)
        parts = plain.classes, plain.extractor, plain.heads, plain.fc, first
        detector = Detector(config, *parts)
    detector = detector.change(vote_score=-1e6)  # all are promising
    passes = detector.score_passes(photo, SOME_WINDOWS, 3)
    assert [len(one.boxes) for one in passes[1:]] == [promising or 3 * len(plain.classes)] * 2
    for one in passes[1:]:
        own = torch.isfinite(one.scores)
        assert (own.sum(dim=1) == 1).all()
        there = plain.score(photo, one.boxes.numpy()).scores
        torch.testing.assert_close(one.scores[own], there[own], rtol=1e-3, atol=1e-3)
    assert not torch.equal(passes[1].boxes, passes[2].boxes)
    assert len(detector.detect(photo, SOME_WINDOWS)) > 0


def test_windows_moved_out_of_the_photograph_stay_where_they_were(make_detector, photo):
    detector = make_detector(SppExtractor).change(vote_score=-1e6)
    detector.heads.regression_intercept[:, 0] = 5.0  # five widths to the right
    windows = np.array([[10, 10, 30, 40], [photo.shape[1] - 20, 5, photo.shape[1], 30]], np.float32)
    for one in detector.score_passes(photo, windows, 4):
        boxes = one.boxes.numpy()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert len(detector.detect(photo, windows)) > 0


def test_pooled_windows_are_scored_as_those_of_a_photograph(small_detector, photo):
    pooled = small_detector.extractor.compute_maps(photo).pool(SOME_WINDOWS)
    ours, theirs = small_detector.score_pooled(pooled), small_detector.score(photo, SOME_WINDOWS)
    assert ours.size == theirs.size == photo.shape[1::-1]
    assert torch.equal(ours.scores, theirs.scores)
    np.testing.assert_array_equal(theirs.boxes, SOME_WINDOWS)


@pytest.fixture()
def model(small_model, tmp_path):
    """A copy of a model folder, to damage."""
    for name in ("model.safetensors", "config.json"):
        shutil.copy(small_model / name, tmp_path)
    return tmp_path


def edit_description(model, **changes):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_trainings_constants_are_recorded(small_model, small_config, small_detector):
    text = json.loads((small_model / "config.json").read_text())
    assert text["version"] == 2
    config = small_config()
    for half, kind, wanted in (
        ("config", Config, config.model),
        ("training", TrainingConfig, config.training),
    ):
        assert list(text[half]) == [field.name for field in dataclasses.fields(kind)]
        for name, value in text[half].items():
            given = getattr(wanted, name)
            assert value == (list(given) if isinstance(given, tuple) else given)
    assert text["training"]["norm_photographs"] == 8  # not the default
    assert small_detector.config == config.model
    assert small_detector.training == config.training


def test_the_trainings_constants_outlive_a_change_of_the_model(make_detector, tmp_path):
    training = TrainingConfig(svm_c=0.5)
    whole = make_detector(SppExtractor)
    parts = whole.classes, whole.extractor, whole.heads, whole.fc
    Detector(whole.config, *parts, training=training).compress(4).save(tmp_path)
    assert Detector.load(tmp_path, "cpu").training == training


# config.json of a small model as it was in version 1, that of the training and the model in one.
VERSION_1 = {
    "format": "spp-detect model",
    "version": 1,
    "config": {
        **{"preset": "release", "extractor": "spp", "backbone": "small5", "weights": "none"},
        **{"precision": "auto", "scales": [160], "long_side_limit": 6000},
        **{"levels": [6, 3, 2, 1], "projection": "release", "scale_rule": "release"},
        **{"proposals": "selective-search-dense", "max_windows": 3000, "feature": "pool5"},
        **{"fc_width": 4096, "fc_start": "components", "fc_rank": 0, "finetune_iterations": 0},
        **{"train_from": "", "mirror_finetuning": True, "finetune_positives": 32},
        **{"finetune_negatives": 96, "finetune_iou": 0.5, "finetune_background": [0.1, 0.5]},
        **{"finetune_rates": [0.001, 0.0001], "finetune_shares": [0.5, 0.5]},
        **{"finetune_momentum": 0.9, "finetune_decay": 0.0005, "feature_norm": 20.0},
        **{"norm_photographs": 8, "norm_windows": 50, "svm_c": 0.002, "svm_tolerance": 0.1},
        **{"bias_multiplier": 10.0, "positive_weight": 2.0, "mirror_positives": False},
        **{"negative_iou": 0.3, "negative_overlap": None, "hard_score": -1.0},
        **{"evict_score": -1.2, "retrain_after": 2000, "regression_iou": 0.5},
        **{"regression_lambda": 30.0, "promising": 0, "score_threshold": -1.5, "nms_iou": 0.3},
        **{"max_detections": 100, "vote_iou": 0.45, "vote_score": -1.0, "seed": 0},
    },
}


def test_a_model_of_version_1_is_read(small_detector, model, photo, tmp_path):
    text = VERSION_1 | {"classes": list(small_detector.classes)}
    (model / "config.json").write_text(json.dumps(text))
    detector = Detector.load(model, "cpu")
    # Not what the preset says now of keys that there were not then.
    assert detector.config == Config(
        preset="release", backbone="small5", scales=(160,), vote_iou=0.45, passes=1, support=0.0
    )
    assert detector.training == TrainingConfig(
        finetune_shares=(0.5, 0.5),
        norm_photographs=8,
        norm_windows=50,
        svm_c=0.002,
        svm_tolerance=0.1,
        mirror_positives=False,
        negative_overlap=None,
        finetune_sampling="photographs",  # no longer the default, but what was done then
    )
    as_then = with_constants(small_detector, vote_iou=0.45, passes=1, support=0.0)
    assert detector.detect(photo) == as_then.detect(photo)
    # Saved again it is one of now.
    detector.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["version"] == 2
    again = Detector.load(tmp_path / "again", "cpu")
    assert (again.config, again.training) == (detector.config, detector.training)


def edit_tensor(model, name, tensor):
    tensors = load_file(model / "model.safetensors")
    tensors[name] = tensor
    save_file(tensors, model / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda m: shutil.rmtree(m), "no such model folder"),
        (lambda m: (m / "config.json").unlink(), "config.json is missing"),
        (lambda m: (m / "model.safetensors").unlink(), "missing"),
        (lambda m: (m / "config.json").write_text("{"), "config.json"),
        (lambda m: (m / "config.json").write_text("[]"), "config.json"),
        (lambda m: edit_description(m, version=99), "version 99, expected 2"),
        (lambda m: edit_description(m, format="other"), "expected a file of format"),
        (lambda m: edit_description(m, config={"speed": 3}), "unknown key 'speed'"),
        (lambda m: edit_description(m, training={"speed": 3}), "unknown key 'speed'"),
        (lambda m: edit_description(m, training=3), "not a model's description"),
        (lambda m: edit_description(m, training={"svm_c": -1.0}), "svm_c -1.0: expected"),
        (lambda m: edit_description(m, classes=["cat"]), "has shape"),
        (lambda m: edit_tensor(m, "heads.svm_intercept", torch.zeros(3)), "has shape (3,)"),
        (lambda m: (m / "model.safetensors").write_bytes(b"\0" * 50), "safetensors"),
    ],
)
def test_damaged_model_is_told_in_one_line(model, damage, words):
    damage(model)
    with pytest.raises(ModelError) as error:
        Detector.load(model, "cpu")
    assert words in str(error.value)
    assert str(model) in str(error.value)
    assert "\n" not in str(error.value)


def test_half_a_model_file_is_refused(model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match="not a whole"):
        Detector.load(model, "cpu")


def test_unfinished_training_says_resume(model):
    (model / "config.json").rename(model / "run.json")
    with pytest.raises(ModelError, match="--resume"):
        Detector.load(model, "cpu")


@pytest.mark.gpu
def test_gpu_detects_as_the_cpu(small_model, photo):
    """Scores within 1e-3 and boxes within 0.1 pixel, but for pairs that NMS decides by a hair."""
    cpu, gpu = (Detector.load(small_model, d).detect(photo) for d in ("cpu", "cuda"))
    assert abs(len(cpu.scores) - len(gpu.scores)) <= 2
    n = min(20, len(cpu.scores))
    np.testing.assert_allclose(cpu.scores[:n], gpu.scores[:n], atol=1e-3)
    np.testing.assert_allclose(cpu.boxes[:n], gpu.boxes[:n], atol=0.1)


def test_what_is_shown_begins_where_votes_raise_scores_to(small_detector):
    assert small_detector.least_score == -0.4
    assert small_detector.change(support=0.0).least_score == -0.8
    assert small_detector.change(vote_iou=None).least_score == -0.8
