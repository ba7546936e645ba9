"""A softmax and boxes that learn beside it: each loss and each score worked apart."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from bbox_regression import decode
from data import read_photo
from spp_detect.backbones import build_backbone, load_weights, read_fc_weights
from spp_detect.config import ConfigError, make_run_config, make_training_config
from spp_detect.detector import Detector
from spp_detect.heads import Heads
from spp_detect.training.assembly import make_settings
from spp_detect.training.finetuning import rate_at
from spp_detect.training.last_layers import TARGET_STD, LastLayers, Standardised
from spp_detect.training.windows import WindowTable

FAST = {
    "preset": "fast-rcnn",
    "train_from": "conv5",
    "fc_width": 16,
    "finetune_iterations": 6,
    "finetune_warmup": 2,
    "precision": "float32",
}


@pytest.fixture
def tuner(make_run, small_set, small_config, tmp_path):
    """Of a run whose windows are the true boxes, widened a little."""
    run = make_run(tmp_path / "run", small_set, small_config(**FAST))
    proposals = [widen(photograph) for photograph in small_set]
    table = WindowTable(small_set, proposals)
    return run.make_tuner(table, run.open_cache(table))


def widen(photograph):
    boxes = photograph.labels.boxes
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    shares = [[-0.05, -0.1, 0.1, 0.15], [-0.4, -0.4, 0.6, 0.4], [0.0, 0.1, 0.05, 0.0]]
    wider = np.concatenate([boxes + np.array(own) * sides for own in shares])
    return wider.clip(0, [photograph.width, photograph.height] * 2).astype(np.float32)


def test_scores_are_the_logarithms_of_the_odds():
    random = np.random.default_rng(0)
    coef, intercept = random.normal(size=(4, 5)), random.normal(size=4)
    rows = random.normal(size=(7, 5)) * 3
    heads = Heads(
        *(torch.tensor(a, dtype=torch.float32) for a in (coef, intercept)),
        torch.zeros(3, 5, 4),
        torch.zeros(3, 4),
    )
    assert heads.is_softmax
    scores = heads.score(torch.tensor(rows, dtype=torch.float32)).double().numpy()
    likely = softmax(rows @ coef.T + intercept, axis=1)[:, :3]
    assert scores.shape == (7, 3)
    np.testing.assert_allclose(expit(scores), likely, atol=1e-6)
    sure = heads.score(torch.full((1, 5), 1e4))
    assert torch.isfinite(sure[:, sure.argmax()]).all()


def test_heads_without_the_background_are_svms():
    heads = Heads.empty(3, 8, 5)
    assert not heads.is_softmax and heads.regression_coef.shape == (3, 8, 4)
    assert Heads.empty(3, 8, 5, softmax=True).regression_coef.shape == (3, 5, 4)


def test_heads_move_by_what_the_box_layer_says():
    torch.manual_seed(0)
    last = LastLayers(6, 3, make_training_config(finetune_boxes=True))
    torch.nn.init.normal_(last.boxes.weight)
    torch.nn.init.normal_(last.boxes.bias)
    rows, classes = torch.randn(5, 6), torch.tensor([0, 2, 1, 1, 2])
    heads = last.make_heads()
    for row, c, learnt in zip(rows, classes.tolist(), last.move(rows, classes), strict=True):
        own = row @ heads.regression_coef[c] + heads.regression_intercept[c]
        torch.testing.assert_close(own, learnt * torch.tensor(TARGET_STD))
    torch.testing.assert_close(heads.svm_coef, last.fc8.weight.data)


def test_standardised_inputs_are_undone_by_weights():
    torch.manual_seed(1)
    features = torch.rand(500, 12) * torch.linspace(0.1, 5, 12) + torch.arange(12.0)
    features[:, 3] = 2.0  # never varies
    inputs, layers = Standardised(12, 3.0), [torch.nn.Linear(12, n) for n in (4, 8)]
    inputs.measure(features)
    values = inputs(features)
    torch.testing.assert_close(values.mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    assert values.norm(dim=1).mean().item() == pytest.approx(3.0, rel=1e-3)
    spread = values.std(0)
    assert spread[3] == 0 and spread[5:].max() / spread[5:].min() < 1.01
    wanted = [layer(values) for layer in layers]
    inputs.fold_into(*layers)
    for layer, values in zip(layers, wanted, strict=True):
        torch.testing.assert_close(layer(features), values, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(layer(inputs(features)), values, atol=1e-4, rtol=1e-4)


def test_targets_lead_to_the_true_boxes(tuner, small_set):
    seen = set()
    for step in range(8):
        for draw in tuner.sampler.draw_batch(step):
            photograph = small_set.photographs[draw.photograph]
            positive = draw.labels < tuner.sampler.background
            table = tuner.sampler.table
            windows = table.find(draw.photograph, mirrored=draw.mirrored)[draw.rows[positive]]
            targets = tuner.sampler.find_targets(draw)
            assert len(targets) == positive.sum()
            moved = decode(windows, targets)
            easy = photograph.labels.easy
            truths = easy.boxes
            if draw.mirrored:
                truths = truths[:, [2, 1, 0, 3]] * [-1, 1, -1, 1]
                truths = truths + np.array([photograph.width, 0, photograph.width, 0])
            for box, label in zip(moved, draw.labels[positive], strict=True):
                nearest = np.abs(truths - box).max(axis=1)
                assert nearest.min() < 0.01
                assert easy.classes[nearest.argmin()] == label
            seen.add(draw.mirrored)
    assert seen == {False, True}


def test_the_loss_is_the_softmaxs_and_the_boxes(tuner):
    batch = tuner.read(tuner.sampler.draw_batch(0))
    tuner.network.eval()
    loss = tuner._sum_losses(batch).item()
    with torch.no_grad():
        features = torch.cat([pool() for _, pool in batch])
        described = tuner.fc(features)
        scores = tuner.fc8(described).double().numpy()
        moves = tuner.last.boxes(described).double().numpy().reshape(len(scores), -1, 4)
    labels = np.concatenate([draw.labels for draw, _ in batch])
    targets = np.concatenate([tuner.sampler.find_targets(draw) for draw, _ in batch])
    expected = -np.log(softmax(scores, axis=1)[np.arange(len(labels)), labels]).sum()
    positive = np.flatnonzero(labels < tuner.sampler.background)
    off = np.abs(moves[positive, labels[positive]] - targets / TARGET_STD)
    expected += np.where(off < 1, off**2 / 2, off - 0.5).sum()
    assert loss == pytest.approx(expected, rel=1e-4)
    assert len(positive) == 48 and (off > 1).any() and (off < 1).any()


def test_the_rates_warm_up_and_the_trunks_are_lower(tuner):
    config = tuner.config.training
    assert [rate_at(config, step) for step in (0, 1, 2, 3, 4, 5)] == pytest.approx(
        [0.005, 0.01, 0.01, 0.01, 0.001, 0.001]
    )
    tuner.trunk.prepare(mirrored=True)
    before = {name: one.clone() for name, one in tuner.network.named_parameters()}
    tuner.learn(0, tuner.read(tuner.sampler.draw_batch(0)))
    rates = {p: g["lr"] for g in tuner.optimiser.param_groups for p in g["params"]}
    for name, parameter in tuner.network.named_parameters():
        assert rates[parameter] == pytest.approx(0.0005 if name.startswith("tail") else 0.005)
        assert not torch.equal(parameter, before[name])


def test_a_run_learns_detects_and_is_loaded_again(make_run, small_set, small_config, tmp_path):
    config = small_config(**FAST | {"finetune_iterations": 60})
    detector = make_run(tmp_path / "run", small_set, config).train()
    history = json.loads((tmp_path / "run" / "finetuning.json").read_text())
    assert history[-1]["held_out_loss"] < history[0]["held_out_loss"]
    stages = json.loads((tmp_path / "run" / "metrics.json").read_text())["stages"]
    assert [stage["stage"] for stage in stages] == ["proposals", "fc start", "fine-tuning"]
    assert detector.heads.is_softmax
    given = read_fc_weights(config.model.backbone, str(tmp_path / "run"))
    for layer in ("fc6", "fc7"):
        learnt = getattr(detector.fc.layers, layer)
        torch.testing.assert_close(given[f"{layer}.weight"], learnt.weight, atol=0, rtol=0)
        torch.testing.assert_close(given[f"{layer}.bias"], learnt.bias, atol=0, rtol=0)
    photo = read_photo(small_set.photographs[0].path)
    again = Detector.load(tmp_path / "run", "cpu")
    ours, theirs = detector.detect(photo), again.detect(photo)
    assert len(ours) and ours.scores.max() > -4.6
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    windows = small_set.photographs[0].labels.boxes
    scored = again.score(photo, windows)
    with torch.inference_mode():
        pooled = again.pool(photo, windows)
        described = again.fc.layers(pooled.features[pooled.inverse].float())
    torch.testing.assert_close(scored.features[scored.inverse], described, atol=1e-3, rtol=1e-3)
    likely = torch.from_numpy(expit(scored.scores.double().numpy()))
    assert (likely.sum(1) <= 1).all()


TUNED = {"preset": "tuned-trunk", "train_from": "conv5", "precision": "float32"}
SOFTMAX = {"scores": "softmax", "score_threshold": -4.6, "vote_score": -3.0}


@pytest.mark.parametrize("scores", [{}, SOFTMAX], ids=["svm", "softmax"])
def test_a_trunk_learns_under_a_linear_layer(make_run, small_set, small_config, tmp_path, scores):
    config = small_config(**TUNED | {"finetune_iterations": 40, "finetune_warmup": 2} | scores)
    run = make_run(tmp_path / "run", small_set, config)
    before = [parameter.clone() for parameter in run.tail.parameters()]
    detector = run.train()
    assert all(not torch.equal(a, b) for a, b in zip(before, run.tail.parameters(), strict=True))
    history = json.loads((tmp_path / "run" / "finetuning.json").read_text())
    assert min(row["held_out_loss"] for row in history) < history[0]["held_out_loss"]
    assert detector.fc is None and detector.heads.is_softmax == bool(scores)
    another = build_backbone(config.model.backbone)
    load_weights(another, str(tmp_path / "run"))
    learnt = detector.extractor.backbone.layers.state_dict()
    for name, tensor in another.layers.state_dict().items():
        torch.testing.assert_close(tensor, learnt[name], atol=0, rtol=0)
    photo, windows = (
        read_photo(small_set.photographs[0].path),
        small_set.photographs[0].labels.boxes,
    )
    again = Detector.load(tmp_path / "run", "cpu")
    scored = again.score(photo, windows)
    if scores:  # the layers that learnt, on pooled features as they are
        with torch.inference_mode():
            pooled = again.pool(photo, windows)
            rows = pooled.features[pooled.inverse].float()
            likely = run.last.fc8(rows).softmax(dim=1)[:, :-1]
        given = torch.from_numpy(expit(scored.scores.double().numpy()))[scored.inverse]
        torch.testing.assert_close(given.float(), likely, atol=1e-4, rtol=1e-3)
    ours, theirs = detector.detect(photo), again.detect(photo)
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    np.testing.assert_array_equal(ours.scores, theirs.scores)


@pytest.mark.parametrize(
    ("preset", "settings", "feature"),
    [
        ("tuned-trunk", {}, "pool5"),
        ("tuned-trunk", {"finetune_iterations": 8}, "pool5"),
        ("default", {"finetune_iterations": 8}, "fc7"),
        ("default", {"finetune_iterations": 8, "train_from": "layer3"}, "fc7"),
        ("default", {}, "pool5"),
        ("fast-rcnn", {}, "fc7"),
    ],
)
def test_the_feature_follows_what_is_tuned(preset, settings, feature):
    assert make_settings(preset, settings).model.feature == feature


def test_the_linear_layers_inputs_are_standardised(make_run, small_set, small_config, tmp_path):
    run = make_run(tmp_path / "run", small_set, small_config(**TUNED | {"finetune_iterations": 2}))
    table = WindowTable(small_set, [widen(photograph) for photograph in small_set])
    tuner = run.make_tuner(table, run.open_cache(table))
    tuner.trunk.prepare(mirrored=False)
    with ThreadPoolExecutor(1) as worker:
        tuner._standardise(worker)
    tuner.network.eval()
    with torch.no_grad():
        batch = tuner.read(tuner.sampler.draw_batch(0))
        given = tuner._describe(batch)
    assert given.shape[1] == run.extractor.length == tuner.fc8.in_features
    assert given.norm(dim=1).mean().item() == pytest.approx(20, rel=0.2)
    tuner.network.train()
    assert 0.4 < (tuner._describe(batch) == 0).float().mean().item() < 0.7  # dropout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"finetune_boxes": False}, "finetune_boxes"),
        ({"feature": "fc6"}, "feature fc7"),
        ({"finetune_components": 64, "train_from": ""}, "finetune_components"),
    ],
)
def test_what_does_not_fit_together(changes, words):
    with pytest.raises(ConfigError, match=words):
        make_run_config(**{"preset": "fast-rcnn"} | changes)
