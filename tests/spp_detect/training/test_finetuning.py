"""Fine-tuning: what a batch holds, what it changes, and that an interrupted run goes on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional
from torchvision.ops import box_iou

from data import read_photo
from spp_detect import cli
from spp_detect.config import SAMPLINGS, ConfigError, make_run_config, make_training_config
from spp_detect.detector import Detector, ModelError
from spp_detect.fc import FcLayers
from spp_detect.projection import project_windows
from spp_detect.training import components, finetuning, sampling
from spp_detect.training.components import FindComponents
from spp_detect.training.fc_start import FcStart
from spp_detect.training.feature_cache import FillCache, MapCache
from spp_detect.training.finetuning import FineTuner, TuningError, rate_at
from spp_detect.training.run_folder import TrainingError
from spp_detect.training.sampling import Draw
from spp_detect.training.stage import do_stage
from spp_detect.training.tuned_trunks import ComponentTrunk, FrozenTrunk, LearningTrunk
from spp_detect.training.windows import WindowTable

STEPS = 12


@pytest.fixture
def make_tuner(make_run, small_set, small_config, tmp_path):
    """Makes a run with windows in memory, and its tuner."""
    numbers = itertools.count()

    def make(folder=None, train_from="", **changes):
        settings = {"finetune_iterations": STEPS, "fc_width": 32, "feature": "fc7"}
        config = small_config(train_from=train_from, **(settings | changes))
        run = make_run(folder or tmp_path / str(next(numbers)), small_set, config)
        random = np.random.default_rng(0)
        table = WindowTable(small_set, [jitter_boxes(one, random) for one in small_set])
        cache = run.open_cache(table)
        if not config.training.finetune_components:
            return run, run.make_tuner(table, cache)
        tuner = run.make_tuner(table, cache, run.find_components(cache))
        tuner.trunk.prepare(mirrored=tuner.sampler.mirrors)
        return run, tuner

    return make


def jitter_boxes(photograph, random):
    boxes = np.repeat(photograph.labels.boxes, 30, axis=0)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    moved = boxes + random.uniform(-0.4, 0.4, boxes.shape) * sides
    moved = moved.clip(0, [photograph.width, photograph.height] * 2).astype(np.float32)
    return moved[(moved[:, 2:] > moved[:, :2] + 2).all(axis=1)]


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before, module):
    return {n for n, tensor in module.state_dict().items() if not torch.equal(tensor, before[n])}


def test_rates_by_hand():
    config = make_training_config("release", finetune_iterations=200_000)
    rates = [rate_at(config, step) for step in (0, 29_999, 30_000, 59_999, 60_000, 199_999)]
    assert rates == [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5]
    config = make_training_config("paper", finetune_iterations=300_000)
    assert [rate_at(config, step) for step in (0, 249_999, 250_000)] == [1e-4, 1e-4, 1e-5]


@pytest.mark.parametrize("train_from", ["", "conv5"])
def test_products_in_half_precision_learn_the_same(make_tuner, train_from):
    """The products alone are rounded: weights are float32 and the curve is float32's, nearly."""
    curves = []
    for precision in ("float32", "bfloat16"):
        _, tuner = make_tuner(
            train_from=train_from, precision=precision, finetune_rates=(0.01, 0.01)
        )
        curves.append(tuner.tune()[:, 2])
        assert {p.dtype for p in tuner.network.parameters()} == {torch.float32}
    whole, half = curves
    assert (whole != half).any()
    assert whole[0] - whole[-1] > 0.05  # it learnt
    np.testing.assert_allclose(half, whole, rtol=0.02)


def test_a_batch_is_a_quarter_positives_of_many_photographs(make_tuner, small_set):
    _, tuner = make_tuner()
    draws = tuner.sampler.draw_batch(5)
    labels = np.concatenate([draw.labels for draw in draws])
    assert (labels < len(small_set.classes)).sum() == 32
    assert (labels == len(small_set.classes)).sum() == 96
    assert len({draw.photograph for draw in draws}) >= 10  # two epochs may meet in a batch
    assert not {draw.photograph for draw in draws} & set(tuner.sampler.held_out)
    again = tuner.sampler.draw_batch(5)
    assert all((a.rows == b.rows).all() for a, b in zip(draws, again, strict=True))
    other = tuner.sampler.draw_batch(6)
    assert any(a.rows.tolist() != b.rows.tolist() for a, b in zip(draws, other, strict=False))


def test_every_scale_and_both_sides_are_drawn(make_tuner):
    _, tuner = make_tuner(scales=(120, 200))
    draws = [draw for step in range(6) for draw in tuner.sampler.draw_batch(step)]
    assert {(draw.scale, draw.mirrored) for draw in draws} == {
        (s, m) for s in (0, 1) for m in (False, True)
    }


def test_drawn_labels_are_those_of_the_boxes_under_the_windows(make_tuner, small_set):
    _, tuner = make_tuner(scales=(120, 200))
    for draw in (draw for step in range(4) for draw in tuner.sampler.draw_batch(step)):
        photograph = small_set.photographs[draw.photograph]
        easy = photograph.labels.easy
        windows = tuner.trunk.cache.table.find(draw.photograph)[draw.rows]
        table = box_iou(torch.from_numpy(windows), torch.from_numpy(easy.boxes)).numpy()
        best = table.max(axis=1)
        positive = draw.labels < len(small_set.classes)
        assert (best[positive] > 0.5 - 1e-4).all()
        assert (draw.labels[positive] == easy.classes[table[positive].argmax(axis=1)]).all()
        assert ((best[~positive] > 0.1 - 1e-4) & (best[~positive] < 0.5 + 1e-4)).all()


@pytest.mark.parametrize("train_from", ["", "conv4"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_windows_under_their_cells_equal_windows_of_the_whole_map(
    make_tuner, mirrored, train_from, small_set
):
    run, tuner = make_tuner(train_from=train_from)
    assert type(tuner.trunk) is (LearningTrunk if train_from else FrozenTrunk)
    assert type(tuner.trunk.cache) is MapCache
    tuner.network.eval()
    photo = read_photo(small_set.photographs[0].path)
    photo = np.ascontiguousarray(photo[:, ::-1]) if mirrored else photo
    width = photo.shape[1]
    windows = tuner.trunk.cache.table.find(0)
    if mirrored:
        left, top, right, bottom = windows.T
        windows = np.stack([width - right, top, width - left, bottom], axis=1)
    draw = Draw(0, mirrored, 0, np.arange(len(windows)), np.zeros(len(windows), np.int64))
    ((same, read),) = tuner.read([draw])
    assert same is draw
    pooled = read()
    assert pooled.requires_grad == bool(train_from)
    expected = run.extractor.compute_maps(photo).pool(windows)
    wanted = expected.features[expected.inverse].float()
    torch.testing.assert_close(pooled.detach(), wanted, atol=0.01, rtol=0.01)


def test_the_fc_layers_change_and_the_trunk_does_not(make_tuner):
    run, tuner = make_tuner()
    trunk, fc = weights(run.extractor.backbone), weights(run.fc_layers)
    history = tuner.tune()
    assert changed(trunk, run.extractor.backbone) == set()
    assert changed(fc, run.fc_layers) == set(fc)
    assert history[0, 0] >= 1
    assert history[-1, 0] == STEPS


@pytest.mark.parametrize("train_from", ["", "conv4"])
def test_components_are_those_of_the_pooled_windows(make_tuner, monkeypatch, small_set, train_from):
    monkeypatch.setattr(components, "COMPONENT_WINDOWS", 10**6)
    run, tuner = make_tuner(train_from=train_from, fc_width=10)
    table = tuner.trunk.cache.table
    found = []
    monkeypatch.setattr(run.fc_layers, "start_from_components", lambda *own: found.append(own))
    do_stage(make_start(run, tuner), run.folder)
    ((vectors, mean, scale),) = found
    assert len(vectors) == 5  # and their negatives
    rows = []
    for i, photograph in enumerate(small_set):
        windows = table.find(i)[len(photograph.labels.easy) :]
        pooled = run.extractor.compute_maps(read_photo(photograph.path)).pool(windows)
        rows.append(pooled.features[pooled.inverse].half().numpy())
    features = np.concatenate(rows).astype(float)
    np.testing.assert_allclose(mean, features.mean(0), atol=1e-5)
    centred = features - features.mean(0)
    wanted = np.linalg.svd(centred, full_matrices=False)[2][:5]
    # Equal but for signs.
    np.testing.assert_allclose(np.abs(vectors.numpy() @ wanted.T), np.eye(5), atol=0.01)
    norms = np.linalg.norm(centred, axis=1)
    assert scale == pytest.approx(run.config.training.feature_norm / norms.mean(), rel=1e-4)
    assert bool(list((run.work / "maps").glob("*.npy"))) == (not train_from)


def make_start(run, tuner):
    cache = run.open_cache(tuner.trunk.cache.table)
    return FcStart(run.work, run.find_components(cache), run.fc_layers, run.config)


def test_fc_layers_start_once_and_the_same_again(make_tuner, tmp_path, monkeypatch):
    run, tuner = make_tuner(tmp_path / "run")
    do_stage(make_start(run, tuner), run.folder)
    started = weights(run.fc_layers)
    assert run.fc_start == "components"
    other, tuner = make_tuner(tmp_path / "run")
    assert changed(started, other.fc_layers)
    for stage in (FindComponents, FcStart):
        monkeypatch.setattr(stage, "run", None)  # is not asked again
    do_stage(make_start(other, tuner), other.folder)
    assert not changed(started, other.fc_layers)


def test_from_a_layer_on_the_trunk_changes_but_no_statistics(make_tuner):
    run, tuner = make_tuner(train_from="conv4", finetune_rates=(0.05,), finetune_shares=(1.0,))
    before = weights(run.extractor.backbone.layers)
    tuner.tune()
    moved = changed(before, run.extractor.backbone.layers)
    assert moved
    assert all(name.startswith(("conv4", "conv5")) for name in moved)
    assert not any("running" in name or "num_batches" in name for name in moved)


def test_one_step_through_the_pyramid_equals_plain_torch(make_tuner):
    """The same step, computed anew with cropped maps and torch's own pooling and autograd."""
    run, tuner = make_tuner(train_from="conv5", precision="float32")
    table = tuner.trunk.cache.table
    tuner.network.eval()
    batch = tuner.read(tuner.sampler.draw_batch(0))
    functional.cross_entropy(*tuner.score(batch)).backward()
    ours = {n: p.grad.clone() for n, p in tuner.network.named_parameters()}
    tuner.network.zero_grad()
    rows, labels = [], []
    for draw, _ in batch:
        stem = tuner.trunk.maps.get(draw.photograph, mirrored=draw.mirrored)
        values = stem.maps[""][draw.scale].permute(2, 0, 1)[None].float()
        one_map = tuner.trunk.tail(values)[0]
        windows = table.find(draw.photograph, mirrored=draw.mirrored)[draw.rows]
        short_side = min(stem.size)
        scaling = (stem.sides[draw.scale] - 1, short_side - 1)
        grid, rule = run.extractor.backbone.grid, run.config.model.projection
        cells = project_windows(windows, scaling, one_map.shape[1:], grid, rule)
        for left, top, right, bottom in cells.tolist():
            crop = one_map[:, top : bottom + 1, left : right + 1]
            levels = [functional.adaptive_max_pool2d(crop, n).flatten() for n in (6, 3, 2, 1)]
            rows.append(torch.cat(levels))
        labels.append(torch.from_numpy(draw.labels))
    scores = tuner.fc8(tuner.fc(torch.stack(rows)))
    functional.cross_entropy(scores, torch.cat(labels)).backward()
    for name, parameter in tuner.network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, msg=name)
    assert sum(g.abs().sum() for n, g in ours.items() if n.startswith("tail")) > 0


@pytest.mark.parametrize("train_from", ["", "conv3"])
def test_one_batch_is_learnt_by_heart(make_tuner, monkeypatch, train_from):
    # At twice the rate the loss leaps with the trunk's layer, and rounding decides where it ends.
    run, tuner = make_tuner(
        finetune_iterations=240,
        finetune_rates=(0.01,),
        finetune_shares=(1.0,),
        train_from=train_from,
        fc_width=64,
    )
    for layer in tuner.fc.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    run.extractor.backbone.layers.conv5[1].weight.data *= 30  # an untrained trunk is faint
    batch = tuner.sampler.draw_batch(0)
    monkeypatch.setattr(tuner.sampler, "draw_batch", lambda _: batch)
    history = tuner.tune()
    assert history[0, 1] > 0.7
    assert history[-1, 1] < 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"finetune_momentum": 0.0},
        {"finetune_optimiser": "adamw"},
        {"finetune_components": 20},
        {"train_from": "conv4"},
        {"train_from": "conv4", "finetune_optimiser": "adamw"},
    ],
    ids=str,
)
def test_an_interrupted_run_ends_at_the_same_weights(make_tuner, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(finetuning, "EVALUATIONS", 4)
    whole, tuner = make_tuner(tmp_path / "whole", **changes)
    history = tuner.tune()

    class KilledError(Exception):
        pass

    broken, tuner = make_tuner(tmp_path / "broken", **changes)
    learn = FineTuner.learn

    def interrupt(self, number, batch):
        if number == 7:
            raise KilledError
        return learn(self, number, batch)

    monkeypatch.setattr(FineTuner, "learn", interrupt)
    with pytest.raises(KilledError):
        tuner.tune()
    monkeypatch.setattr(FineTuner, "learn", learn)
    broken, tuner = make_tuner(tmp_path / "broken", **changes)
    assert (tuner.tune() == history).all()
    assert changed(weights(whole.fc_layers), broken.fc_layers) == set()
    assert changed(weights(whole.tail), broken.tail) == set()
    assert len(history) == 4


@pytest.mark.parametrize("name", [finetuning.STATE, finetuning.BEST])
def test_a_damaged_file_is_named_and_once_deleted_done_without(make_tuner, tmp_path, name):
    history = make_tuner(tmp_path)[1].tune()
    (path,) = tmp_path.rglob(name)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(TrainingError, match=f"{name}: not a whole safetensors file.*delete it"):
        make_tuner(tmp_path)[1].tune()
    path.unlink()
    assert (make_tuner(tmp_path)[1].tune() == history).all()


def test_layers_in_the_space_of_components_are_the_layers_there():
    """And back: each input's part outside the space counts for nothing."""
    torch.manual_seed(0)
    fc = FcLayers(40, 12, 2).double().eval()
    torch.nn.init.normal_(fc.layers[0].bias)
    vectors = torch.linalg.qr(torch.randn(40, 7, dtype=torch.float64)).Q.T.contiguous()
    mean = torch.randn(40, dtype=torch.float64)
    inside = mean + torch.randn(5, 7, dtype=torch.float64) @ vectors
    components = (inside - mean) @ vectors.T
    copy = fc.restrict(vectors, mean).double().eval()
    torch.testing.assert_close(copy(components), fc(inside).detach())
    outside = torch.randn(5, 40, dtype=torch.float64)
    outside -= outside @ vectors.T @ vectors
    assert (fc(inside + outside) - fc(inside)).abs().max() > 0.1
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter += torch.randn_like(parameter) / 10
    fc.extend(copy, vectors, mean)
    torch.testing.assert_close(fc(inside + outside), copy(components))
    assert torch.linalg.matrix_rank(fc.layers[0].weight) == 7


@pytest.mark.parametrize("scales", [(160,), (120, 200)])
def test_components_of_what_may_be_drawn_are_those_of_its_pooled_windows(
    make_tuner, make_run, small_config, small_set, tmp_path, scales
):
    run, tuner = make_tuner(finetune_components=20, scales=scales)
    assert type(tuner.trunk) is ComponentTrunk
    vectors, mean, _ = tuner.trunk.components
    assert tuner.fc.layers[0].in_features == len(vectors) == 20
    cache = run.open_cache(tuner.trunk.cache.table)
    for mirrored in (False, True):
        rows = tuner.sampler.labelled[2].rows[::3]
        wanted = torch.stack(
            [
                (cache.pool_at(2, rows, scale, mirrored=mirrored) - mean) @ vectors.T
                for scale in range(len(scales))
            ]
        )
        draw = Draw(2, mirrored, 0, rows, np.zeros(len(rows), np.int64))
        found = tuner.trunk.read(draw)()
        distances = (found - wanted).abs().amax(dim=2).amin(dim=0)  # of whichever scale it is
        assert distances.max() < 0.01
        if len(scales) > 1:
            assert len((found - wanted).abs().amax(dim=2).argmin(dim=0).unique()) == len(scales)


def test_a_damaged_file_of_components_is_computed_again(make_tuner):
    _, tuner = make_tuner(finetune_components=20)
    draw = tuner.sampler.draw_batch(0)[0]
    before = tuner.trunk.read(draw)()
    path = tuner.trunk._name_file(draw.photograph, draw.mirrored)
    path.write_bytes(path.read_bytes()[:150])
    assert torch.equal(tuner.trunk.read(draw)(), before)


def test_few_windows_of_a_photograph_are_those_that_may_be_drawn(make_tuner, monkeypatch):
    monkeypatch.setattr(sampling, "POSITIVES_KEPT", 5)
    monkeypatch.setattr(sampling, "NEGATIVES_KEPT", 7)
    for kind in SAMPLINGS:
        _, all_of_them = make_tuner(finetune_sampling=kind)
        _, tuner = make_tuner(finetune_components=20, finetune_sampling=kind)
        drawn = [draw for step in range(8) for draw in tuner.sampler.draw_batch(step)]
        for draw in drawn:
            few = tuner.sampler.labelled[draw.photograph]
            every = all_of_them.sampler.labelled[draw.photograph]
            assert len(few.positives) <= 5
            assert len(few.negatives) <= 7
            labels = dict(zip(every.positives.tolist(), every.labels.tolist(), strict=True))
            for row, label in zip(draw.rows.tolist(), draw.labels.tolist(), strict=True):
                if label == tuner.sampler.background:
                    assert row in few.negatives
                    assert row in every.negatives
                else:
                    assert row in few.positives
                    assert labels[row] == label


def test_the_best_snapshot_is_kept_not_the_last(make_tuner, monkeypatch):
    run, tuner = make_tuner()
    evaluate = FineTuner._evaluate
    seen = []

    def evaluate_worse_from_the_third_on(self, worker, step, loss):
        monkeypatch.setattr(
            functional, "cross_entropy", lambda *_, **__: torch.tensor(float(abs(len(seen) - 1)))
        )
        evaluate(self, worker, step, loss)
        monkeypatch.undo()
        monkeypatch.setattr(FineTuner, "_evaluate", evaluate_worse_from_the_third_on)
        seen.append(weights(self.fc))

    monkeypatch.setattr(FineTuner, "_evaluate", evaluate_worse_from_the_third_on)
    tuner.tune()
    assert len(seen) > 3
    assert changed(seen[1], run.fc_layers) == set()
    assert changed(seen[-1], run.fc_layers) != set()


@pytest.mark.parametrize(
    ("feature", "train_from", "components"),
    [("fc6", "", 0), ("fc7", "", 10), ("fc7", "conv5", 0), ("pool5", "conv5", 0)],
)
def test_whole_runs_save_what_they_detect_with(
    make_run, small_set, small_config, tmp_path, feature, train_from, components
):
    config = small_config(
        feature=feature,
        train_from=train_from,
        finetune_iterations=4,
        finetune_components=components,
        fc_width=16,
    )
    trained = make_run(tmp_path / "run", small_set, config).train()
    loaded = Detector.load(tmp_path / "run", "cpu")
    photo = read_photo(small_set.photographs[0].path)
    windows = small_set.photographs[0].labels.boxes + np.float32(1)
    ours, theirs = trained.detect(photo, windows), loaded.detect(photo, windows)
    assert (loaded.fc is None) == (feature == "pool5")
    assert len(ours)
    assert ours == theirs


def test_a_compressed_model_is_nearly_the_same(
    make_run, small_set, small_config, tmp_path, monkeypatch, capsys
):
    config = small_config(feature="fc6", finetune_iterations=4, fc_width=16, precision="float32")
    whole = make_run(tmp_path / "run", small_set, config).train()
    for rank, tolerance in ((15, 0.05), (3, 3)):
        out = tmp_path / f"rank{rank}"
        arguments = ["compress", str(tmp_path / "run"), "--rank", str(rank), "--out", str(out)]
        monkeypatch.setattr("sys.argv", ["spp-detect", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        compressed = Detector.load(out, "cpu")
        assert compressed.config.fc_rank == rank
        photo = read_photo(small_set.photographs[0].path)
        windows = small_set.photographs[0].labels.boxes + np.float32(1)
        scores = [one.score(photo, windows).scores for one in (whole, compressed)]
        difference = float((scores[0] - scores[1]).abs().max())
        assert 0 < difference < tolerance
        with pytest.raises(ModelError, match=f"rank {rank}: expected one with a whole"):
            compressed.compress(2)
    with pytest.raises(ModelError, match="rank 16: expected at least 1 and less than fc6's 16"):
        whole.compress(16)


@pytest.mark.gpu
@pytest.mark.parametrize("train_from", ["", "conv4"])
def test_on_the_gpu(make_run, small_set, small_config, tmp_path, train_from):
    config = small_config(feature="fc7", train_from=train_from, finetune_iterations=4, fc_width=16)
    run = make_run(tmp_path / "run", small_set, config, torch.device("cuda"))
    table = WindowTable(small_set, [photograph.labels.boxes for photograph in small_set])
    history = run.make_tuner(table, run.open_cache(table)).tune()
    assert np.isfinite(history).all()


def test_a_loss_that_is_not_finite_ends_in_one_line(make_tuner):
    _, tuner = make_tuner(finetune_rates=(1e9,), finetune_shares=(1.0,))
    with pytest.raises(TuningError, match="held-out windows is"):
        tuner.tune()


def test_what_does_nothing_is_refused():
    for changes in (
        {"train_from": "layer3"},
        {"finetune_iterations": 5},
        {
            "finetune_iterations": 5,
            "feature": "fc7",
            "finetune_positives": 8,
            "finetune_sampling": "photographs",
        },
    ):
        with pytest.raises(ConfigError, match="expected"):
            make_run_config(**changes)


@pytest.mark.parametrize("room", [True, False])
def test_of_the_tuning_only_mirrored_maps_are_left_where_there_is_room(
    make_run, small_set, small_config, tmp_path, room
):
    config = small_config(feature="fc7", finetune_iterations=4, fc_width=16)
    run = make_run(tmp_path / "run", small_set, config)
    run.begin()
    table = run.propose()
    cache = run.open_cache(table)
    if not room:
        cache.budget = 2 * sum(one.numel() for one in cache.compute(0).maps[""]) * 9
    run.prepare_fc(table, cache)
    do_stage(FillCache(cache), run.folder)
    assert not list(run.work.glob("finetuning*"))
    assert bool(list((run.work / "maps").glob("*mirrored*"))) == room
    kept = sum(path.stat().st_size for path in (run.work / "maps").glob("*.npy"))
    assert cache.used == kept > 0
    assert (run.folder / "finetuning.json").is_file()


def test_an_unknown_layer_is_named(make_tuner):
    with pytest.raises(ConfigError, match="train_from 'conv9': expected a layer of small5: conv2"):
        make_tuner(train_from="conv9")


def test_a_resumed_run_starts_from_the_nets_own_layers(make_run, small_set, small_config, tmp_path):
    """Killed before the fc layers' start, it has the trunk's file only."""
    config = small_config(feature="fc7", fc_width=16, finetune_iterations=STEPS)
    run = make_run(tmp_path / "run", small_set, config)
    run.fc_start = "the net's own"
    run.begin()
    resumed = make_run(tmp_path / "run", small_set, config)
    with torch.no_grad():
        resumed.fc_layers.layers[0].weight.zero_()
    resumed.begin()
    assert resumed.fc_start == "the net's own"
    table = WindowTable(small_set, [photograph.labels.boxes for photograph in small_set])
    assert resumed.find_components(resumed.open_cache(table)) is None
    do_stage(FcStart(resumed.work, None, resumed.fc_layers, config), resumed.folder)
    assert not changed(weights(run.fc_layers), resumed.fc_layers)
