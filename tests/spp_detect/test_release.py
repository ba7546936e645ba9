"""What the official release does otherwise than the defaults, each against a slow reading of it."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bbox_regression import decode
from data import LabelledSet, Labels, Photograph
from spp_detect.backbones import build_backbone
from spp_detect.config import (
    SAMPLINGS,
    ConfigError,
    make_config,
    make_run_config,
    make_training_config,
)
from spp_detect.detector import make_proposal_settings
from spp_detect.extractors import make_extractor
from spp_detect.fc import FcLayers
from spp_detect.heads import Heads
from spp_detect.postprocess import ScoredWindows, select_detections
from spp_detect.spp import resized_size
from spp_detect.training.finetuning import FineTuner
from spp_detect.training.last_layers import LastLayers
from spp_detect.training.sampling import Draw, WindowSampler
from spp_detect.training.targets import find_negatives, select_regression_pairs
from spp_detect.training.tuned_trunks import Pooling, TunedTrunk
from spp_detect.training.windows import WindowTable


def make_photograph(boxes, classes, difficult, size=(100, 80)) -> Photograph:
    labels = Labels(np.array(boxes, np.float32), np.array(classes), np.array(difficult))
    return Photograph("one", Path("one.jpg"), *size, labels)


def test_a_preset_is_whole():
    """Every constant that the release's fine-tuning, mining and regression are known by."""
    model, training = make_config("release"), make_training_config("release")
    assert model.scales == (480, 576, 688, 874, 1200)
    assert (model.backbone, model.feature, model.fc_width) == ("zf5", "fc7", 4096)
    assert (model.projection, model.scale_rule) == ("release", "release")
    assert model.proposals == "selective-search"
    assert make_proposal_settings(model).min_side == 20
    assert training.finetune_iterations == 200_000
    steps = np.array(training.finetune_shares) * training.finetune_iterations
    np.testing.assert_allclose(steps.cumsum(), (30_000, 60_000, 200_000))
    assert training.hard_score == -1.0001
    paper = make_config("paper")
    assert paper.scales == (480, 576, 688, 864, 1200)
    assert (paper.backbone, paper.feature) == ("zf5_paper", "fc7")
    changed = make_run_config("release", backbone="resnet18", scales=(688,))
    assert (changed.model.backbone, changed.model.scales) == ("resnet18", (688,))
    assert changed.training == training


@pytest.mark.parametrize("side", [480, 576, 688, 874, 1200])
def test_the_long_side_is_rounded_up(side):
    random = np.random.default_rng(side)
    for width, height in random.integers(60, 1000, (300, 2)).tolist():
        factor = Fraction(side, min(width, height))
        wanted = math.ceil(width * factor), math.ceil(height * factor)
        assert resized_size((width, height), side, 10**6, "up") == wanted
        assert min(wanted) == side
        near = resized_size((width, height), side, 10**6)
        assert all(0 <= u - n <= 1 for u, n in zip(wanted, near, strict=True))
    assert resized_size((500, 50), 480, 2000, "up") == (2000, 200)


def test_windows_that_overlap_by_exactly_a_half():
    photograph = make_photograph([[0, 0, 20, 10]], [0], [False])
    windows = np.array([[0, 0, 10, 10], [0, 0, 11, 10], [0, 0, 9, 10]], np.float32)
    loose, boxes = select_regression_pairs(photograph, windows, 0, 0.5)
    assert loose.tolist() == [0, 1]
    assert boxes.tolist() == [[0, 0, 20, 10]] * 2
    strict, _ = select_regression_pairs(photograph, windows, 0, 0.5, strict=True)
    assert strict.tolist() == [1]


def test_boxes_move_by_inclusive_sides():
    boxes = torch.tensor([[10.0, 20.0, 31.0, 61.0]])
    heads = Heads(
        torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 3, 4), torch.tensor([[0.5, 0, 0, 0.0]])
    )
    rows = np.zeros(1, np.int64)
    parts = torch.zeros(1, 1), torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64)
    scored = ScoredWindows(boxes, *parts, (90, 90), heads)
    inclusive = dataclasses.replace(scored, inclusive=True)
    # Inclusive sides of 20 and 40: half of 20 to the right, not half of 21.
    assert inclusive.move(rows, rows).tolist() == [[20, 20, 41, 61]]
    assert scored.move(rows, rows).tolist() == [[20.5, 20, 41.5, 61]]
    targets = heads.regression_intercept.numpy()
    np.testing.assert_array_equal(
        inclusive.move(rows, rows),
        decode(boxes.numpy(), targets, (90, 90), inclusive=True),
    )


def test_difficult_boxes_are_negatives_of_other_classes_alone():
    photograph = make_photograph([[0, 0, 20, 20], [50, 50, 70, 70]], [0, 1], [False, True])
    dataset = LabelledSet(Path("set"), "train", ("a", "b"), (photograph,))
    proposals = [np.array([[5, 5, 30, 30]], np.float32)]
    plain = WindowTable(dataset, proposals)
    assert plain.find(0).tolist() == [[0, 0, 20, 20], [5, 5, 30, 30]]
    table = WindowTable(dataset, proposals, difficult=True)
    assert table.find(0).tolist() == [[0, 0, 20, 20], [5, 5, 30, 30], [50, 50, 70, 70]]
    # No stage but the mining meets it.
    assert table.find_learnt(0).tolist() == plain.find(0).tolist()
    assert table.find_boxes(0).tolist() == [0]
    assert table.find_proposals(0).tolist() == [1]
    negative = find_negatives(photograph, table.find(0), 2, 0.3, None)
    assert negative[2].tolist() == [True, False]
    assert table.sha256 != plain.sha256


def test_windows_are_told_apart_before_they_are_clamped():
    """At the photograph's edge the release keeps windows that clamping makes the same."""
    photo = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    windows = np.array([[40, 40, 159, 119], [40, 40, 160, 120], [0, 0, 50, 50]], np.float32)
    rows = {}
    for distinct in ("clamped", "unclamped"):
        torch.manual_seed(0)
        config = make_config(backbone="small5", scales=(480,), distinct=distinct)
        extractor = make_extractor(build_backbone("small5"), config, torch.device("cpu"))
        maps = extractor.compute_maps(photo)
        assert (maps.project(windows, 0, 0)[0] == maps.project(windows, 0, 0)[1]).all()
        pooled = maps.pool(windows)
        rows[distinct] = pooled.inverse.tolist()
        assert torch.equal(pooled.features[pooled.inverse[0]], pooled.features[pooled.inverse[1]])
    assert rows == {"clamped": [0, 0, 1], "unclamped": [0, 1, 2]}


class FixedFeatures(TunedTrunk):
    """Gives the features that it is made with, whatever is drawn."""

    def __init__(self, features: torch.Tensor) -> None:
        super().__init__(nn.Sequential(), None)
        self.features = features

    def read(self, draw: Draw) -> Pooling:
        return lambda: self.features


class Background:
    background = 2


@pytest.mark.parametrize(("rate", "decay", "first"), [(1.0, True, 0.0), (2.0, False, 1.0)])
def test_the_biases_of_fc8_learn_at_a_rate_of_their_own(tmp_path, rate, decay, first):
    config = make_run_config(
        feature="fc7",
        finetune_iterations=10,
        precision="float32",
        fc8_bias_rate=rate,
        fc8_bias_decay=decay,
        fc8_background_bias=first,
        finetune_rates=(0.1,),
        finetune_shares=(1.0,),
    )
    torch.manual_seed(0)
    fc = FcLayers(4, 6, 1)
    for layer in fc.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    trunk, last = FixedFeatures(torch.rand(3, 4)), LastLayers(6, 2, config.training)
    tuner = FineTuner(trunk, fc, last, Background(), config, torch.device("cpu"), tmp_path)
    assert tuner.fc8.bias.tolist() == [0, 0, first]
    labels = np.array([0, 2, 2])
    batch = [(Draw(0, False, 0, np.arange(3), labels), lambda: tuner.trunk.features)]
    scores, _ = tuner.score(batch)
    probabilities = scores.softmax(1).detach()
    wanted = torch.zeros(3, 3)
    wanted[[0, 1, 2], labels] = 1
    gradient = (probabilities - wanted).mean(0)
    before = tuner.fc8.bias.detach().clone()
    tuner.learn(0, batch)
    decayed = gradient + (5e-4 * before if decay else 0)
    torch.testing.assert_close(tuner.fc8.bias.detach(), before - 0.1 * rate * decayed)


def make_many(counts) -> tuple[LabelledSet, WindowTable]:
    """Photographs of one box each, the i-th with counts[i] windows on it and as many near it."""
    photographs, proposals = [], []
    for count in counts:
        photographs.append(make_photograph([[0, 0, 40, 40]], [0], [False]))
        near = [[0, 0, 40, 40 + k / 100] for k in range(count)]
        far = [[20, 0, 60, 40 + k / 100] for k in range(count)]
        proposals.append(np.array(near + far, np.float32))
    dataset = LabelledSet(Path("set"), "train", ("a",), tuple(photographs))
    return dataset, WindowTable(dataset, proposals)


def test_windows_are_drawn_uniformly_from_all_photographs():
    counts = [1, 2, 4, 8, 16, 32] * 4
    dataset, table = make_many(counts)
    config = make_run_config(
        feature="fc7", finetune_iterations=9, finetune_sampling="windows", scales=(480, 688)
    )
    sampler = WindowSampler(dataset, table, config, mirrors=True)
    positives = {i: len(sampler.labelled[i].positives) for i in sampler.learnt}
    drawn = dict.fromkeys(positives, 0)
    mirrored, scales, steps = 0, np.zeros(2), 150
    for step in range(steps):
        draws = sampler.draw_batch(step)
        labels = np.concatenate([draw.labels for draw in draws])
        assert [(labels == 0).sum(), (labels == 1).sum()] == [32, 96]
        for draw in draws:
            labelled = sampler.labelled[draw.photograph]
            assert set(draw.rows[draw.labels == 0]) <= set(labelled.positives)
            assert set(draw.rows[draw.labels == 1]) <= set(labelled.negatives)
            drawn[draw.photograph] += int((draw.labels == 0).sum())
            mirrored += draw.mirrored * len(draw.rows)
            scales[draw.scale] += len(draw.rows)
    total = sum(positives.values())
    for i, count in positives.items():
        expected = 32 * steps * count / total
        assert abs(drawn[i] - expected) < 5 * math.sqrt(expected) + 1
    assert abs(mirrored / (128 * steps) - 0.5) < 0.02
    assert abs(scales[0] / scales.sum() - 0.5) < 0.02
    again = WindowSampler(dataset, table, config, mirrors=True).draw_batch(7)
    for one, other in zip(sampler.draw_batch(7), again, strict=True):
        assert one[:3] == other[:3]
        assert (one.rows == other.rows).all()


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_tuned_trunk_takes_few_photographs(make_run, small_set, small_config, tmp_path, sampling):
    """Each is a pass of the trunk: two a batch, however windows of a frozen one are drawn."""
    config = small_config(finetune_iterations=5, train_from="conv5", finetune_sampling=sampling)
    run = make_run(tmp_path / "run", small_set, config)
    table = WindowTable(small_set, [one.labels.boxes for one in small_set])
    tuner = run.make_tuner(table, run.open_cache(table))
    drawn = tuner.sampler.draw_batch(0)
    assert len({draw.photograph for draw in drawn}) == 2
    with pytest.raises(ConfigError, match="finetune_positives 33: expected a multiple of 2"):
        make_run_config(
            finetune_iterations=5,
            train_from="layer3",
            finetune_positives=33,
            finetune_sampling=sampling,
        )


def test_models_of_both_rules_move_their_own_boxes():
    """Together, too, each model's regression measures as it was trained."""
    rows = np.zeros(1, np.int64)
    heads = Heads(
        torch.zeros(1, 3), torch.zeros(1), torch.zeros(1, 3, 4), torch.tensor([[0.5, 0, 0, 0.0]])
    )
    one, other = (
        ScoredWindows(
            torch.tensor([box]),
            torch.ones(1, 1),
            torch.zeros(1, 3),
            torch.zeros(1, dtype=torch.int64),
            (300, 300),
            heads,
            inclusive,
        )
        for box, inclusive in (([10.0, 20, 31, 61], True), ([110.0, 120, 131, 161], False))
    )
    assert one.move(rows, rows)[0, 0] == 20
    assert other.move(rows, rows)[0, 0] == 120.5
    found = select_detections([one, other], make_config(passes=1, vote_iou=None))
    assert sorted(found.boxes[:, 0].tolist()) == [20, 120.5]
