"""What a benchmark records, and what it refuses; nothing here asks how long a thing took."""

import copy
import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from data import DataError, read_photo
from spp_detect import cli
from spp_detect.detector import Detector
from spp_detect.dtype import find_dtype
from spp_detect.experiments import speed
from spp_detect.experiments.speed import (
    PAPER_STAGES,
    RCNN,
    STAGES,
    BenchmarkError,
    BenchmarkSettings,
    StageClock,
    make_contenders,
    run_benchmark,
    sample_photographs,
)
from spp_detect.fc import build_fc
from spp_detect.heads import Heads
from spp_detect.rcnn import BATCHES, RcnnExtractor
from spp_detect.report.chart import plot_seconds
from spp_detect.report.terminal import show_benchmark

ONE, TWO = "SPP-net, 1 scale", "SPP-net, 2 scales"
SETTINGS = BenchmarkSettings(single_scale=160, scales=(96, 160), windows=20, rcnn_photographs=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small passes: where other work is going on, torch's threads wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def paths(small_set):
    return [photograph.path for photograph in small_set.photographs[:3]]


@pytest.fixture(scope="module")
def result(small_detector, paths):
    return run_benchmark(small_detector, paths, SETTINGS)


@pytest.fixture(scope="module")
def fc_detector(small_detector):
    """The small detector with an untrained fc6 between pyramid and SVMs."""
    config = dataclasses.replace(small_detector.config, feature="fc6", fc_width=16)
    coef = torch.randn(len(small_detector.classes), 16)
    heads = Heads(**dict(small_detector.heads.named_buffers()) | {"svm_coef": coef})
    extractor = small_detector.extractor
    fc = build_fc(config, extractor.length)
    return Detector(config, small_detector.classes, extractor, heads, fc)


@pytest.fixture()
def other_trunk(small_model, tmp_path):
    """A model folder whose trunk has other weights."""
    detector = Detector.load(small_model, "cpu")
    with torch.no_grad():
        next(detector.extractor.backbone.parameters()).add_(0.01)
    detector.save(tmp_path / "other")
    return tmp_path / "other"


def error_line(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spp-detect", "benchmark", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("spp-detect: error: ")
    return line


def add_up(seconds, stages):
    return sum(seconds[stage] for stage in stages)


def test_every_stage_of_every_contender_is_recorded(result, paths):
    assert list(result["contenders"]) == [ONE, TWO, RCNN]
    assert [one["name"] for one in result["photographs"]] == [path.name for path in paths]
    for i, one in enumerate(result["photographs"]):
        assert set(one["seconds"]) == ({ONE, TWO, RCNN} if i < 2 else {ONE, TWO})
        assert 0 < one["windows"] <= 20
        for name, seconds in one["seconds"].items():
            assert set(seconds) == set(STAGES)
            assert all(value >= 0 for value in seconds.values())
            assert 0 < one["distinct_windows"][name] <= one["windows"]
        # Reading and proposals are done once, for all.
        assert len({add_up(s, ("reading", "proposals")) for s in one["seconds"].values()}) == 1
        for name, warp in one["warp"].items():
            assert name == RCNN
            assert 0 < warp < one["seconds"][name]["conv"]


def test_contenders_take_turns_to_be_first(result):
    first = [next(iter(one["seconds"])) for one in result["photographs"]]
    assert first == [ONE, TWO, ONE]  # the third without R-CNN


def test_medians_and_speedups_follow_from_the_records(result):
    for name, summary in result["contenders"].items():
        own = [o["seconds"][name] for o in result["photographs"] if name in o["seconds"]]
        assert summary["photographs"] == len(own) == (2 if name == RCNN else 3)
        for stage in STAGES:
            wanted = np.percentile([one[stage] for one in own], (25, 50, 75))
            assert summary["stages"][stage]["median"] == pytest.approx(wanted[1])
            assert summary["stages"][stage]["quartiles"] == pytest.approx(wanted[[0, 2]].tolist())
        for key, stages in (("paper", PAPER_STAGES), ("all", STAGES)):
            sums = [add_up(one, stages) for one in own]
            assert summary[key]["median"] == pytest.approx(np.median(sums))
    both = [one["seconds"] for one in result["photographs"][:2]]
    assert set(result["speedup"]) == {ONE, TWO}
    for name, speedup in result["speedup"].items():
        assert speedup["photographs"] == 2
        for key, stages in (("paper", PAPER_STAGES), ("all", STAGES)):
            ratios = [add_up(one[RCNN], stages) / add_up(one[name], stages) for one in both]
            assert speedup[key]["median"] == pytest.approx(np.median(ratios))


def test_the_result_says_what_it_must_be_read_with(result):
    result = json.loads(json.dumps(result))
    assert result["device"] == "cpu"
    assert result["dtype"] == find_dtype("auto", torch.device("cpu"))
    assert result["threads"]["torch"] == 1
    assert result["fc_layers"] is False
    assert result["contenders"][ONE]["scales"] == [160]
    assert result["contenders"][TWO]["scales"] == [96, 160]
    assert result["contenders"][RCNN]["scales"] is None
    assert result["settings"]["windows"] == 20
    assert {"command", "commit", "versions", "machine"} <= set(result["record"])


def test_repeats_count_once(small_detector, paths):
    settings = dataclasses.replace(SETTINGS, repeats=2, windows=8)
    (one,) = run_benchmark(small_detector, paths[:1], settings)["photographs"]
    assert set(one["seconds"]) == {ONE, TWO, RCNN}
    assert isinstance(one["seconds"][RCNN]["conv"], float)


class FakeTime:
    """A clock that tells what it is set to, and goes on by itself by `step` at every look."""

    def __init__(self, step=0.0):
        self.now, self.step = 100.0, step

    def perf_counter(self):
        self.now += self.step
        return self.now


@pytest.fixture
def fake_time(monkeypatch):
    """Puts a clock in the place of `speed`'s."""

    def put(step=0.0):
        clock = FakeTime(step)
        monkeypatch.setattr(speed, "time", clock)
        return clock

    return put


def test_a_stage_inside_another_is_not_counted_in_it(fake_time):
    time, clock = fake_time(), StageClock(torch.device("cpu"))
    time.now += 1000  # before any stage
    with clock("outer"):
        time.now += 1
        for _ in range(3):
            with clock("inner"):
                time.now += 10
                with clock("innermost"):
                    time.now += 100
                time.now += 20
            time.now += 2
    time.now += 1000  # between stages
    with clock("inner"):
        time.now += 5
    with clock("outer"), clock("outer"):
        time.now += 4
    assert dict(clock.seconds) == {"outer": 1 + 6 + 4, "inner": 90 + 5, "innermost": 300}
    # All that passed in a stage is some stage's.
    assert sum(clock.seconds.values()) == time.now - 100 - 2000


def test_a_stage_that_fails_is_left(fake_time):
    time, clock = fake_time(), StageClock(torch.device("cpu"))
    with clock("outer"):
        with pytest.raises(KeyError), clock("inner"):
            time.now += 3
            raise KeyError
        time.now += 4
    time.now += 50
    assert dict(clock.seconds) == {"outer": 4, "inner": 3}


@pytest.mark.gpu
def test_queued_work_of_a_gpu_is_waited_for():
    device = torch.device("cuda")
    values = torch.rand(4096, 4096, device=device)
    clock = StageClock(device)
    with clock("outer"), clock("inner"):
        for _ in range(20):
            values @ values
    assert clock.seconds["inner"] > 10 * clock.seconds["outer"]


def test_rcnns_convolutions_and_pyramid_are_told_apart(small_detector, paths, fake_time):
    """With a clock that ticks once a look: 4 looks a batch, 2 more around all of them."""
    fake_time(step=1.0)
    (one,) = run_benchmark(small_detector, paths[:1], SETTINGS)["photographs"]
    batches = -(-one["distinct_windows"][RCNN] // BATCHES["cpu"])
    seconds = one["seconds"][RCNN]
    # A batch: until the warp, the warp, the trunk, the pyramid.
    assert seconds["pooling"] == batches
    assert seconds["conv"] == 1 + 3 * batches + 1  # the pixels, the batches, what follows the last
    assert one["warp"][RCNN] == batches
    assert seconds["fc"] == one["seconds"][ONE]["pooling"] == one["seconds"][ONE]["conv"] == 1
    assert seconds["classification"] == 2  # the SVMs, then regression and NMS


def test_rcnn_takes_the_heads_of_its_own_model(small_detector):
    rcnn = copy.copy(small_detector)
    sevens = torch.full_like(rcnn.heads.svm_intercept, 7.0)
    rcnn.heads = Heads(**dict(rcnn.heads.named_buffers()) | {"svm_intercept": sevens})
    contenders = make_contenders(small_detector, rcnn, SETTINGS)
    assert isinstance(contenders[RCNN].extractor, RcnnExtractor)
    assert (contenders[RCNN].heads.svm_intercept == 7).all()
    assert torch.equal(contenders[ONE].heads.svm_coef, small_detector.heads.svm_coef)
    trunks = {id(one.extractor.backbone) for one in contenders.values()}
    assert trunks == {id(small_detector.extractor.backbone)}


def test_one_scale_is_not_several(small_detector):
    settings = dataclasses.replace(SETTINGS, scales=(400,))
    with pytest.raises(BenchmarkError, match="at least two"):
        make_contenders(small_detector, small_detector, settings)


def test_other_trunk_weights_are_refused(small_detector, other_trunk, paths):
    with pytest.raises(BenchmarkError, match="other trunk weights"):
        run_benchmark(small_detector, paths, SETTINGS, Detector.load(other_trunk, "cpu"))


def test_other_classes_and_features_are_refused(small_detector, fc_detector):
    other = copy.copy(small_detector)
    other.classes = tuple(f"not {name}" for name in other.classes)
    with pytest.raises(BenchmarkError, match="expected SPP-net's classes"):
        make_contenders(small_detector, other, SETTINGS)
    with pytest.raises(BenchmarkError, match="feature fc6, SPP-net's pool5"):
        make_contenders(small_detector, fc_detector, SETTINGS)
    other = copy.copy(small_detector)
    other.config = dataclasses.replace(other.config, parts=("window", "window"))
    with pytest.raises(BenchmarkError, match="R-CNN's model has parts"):
        make_contenders(small_detector, other, SETTINGS)


def test_photographs_are_read_before_anything_is_measured(small_detector, paths, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(paths[0].read_bytes()[:2000])
    with pytest.raises(DataError, match=r"bad\.jpg"):
        run_benchmark(small_detector, [*paths, bad], SETTINGS)


def test_a_photograph_without_windows(small_detector, paths, monkeypatch):
    monkeypatch.setattr(speed, "propose", lambda *_: np.zeros((0, 4), np.float32))
    result = run_benchmark(small_detector, paths[:1], SETTINGS)
    assert result["photographs"][0]["windows"] == 0
    assert np.isfinite(result["speedup"][ONE]["all"]["median"])
    seconds = result["photographs"][0]["seconds"][RCNN]
    assert set(seconds) == set(STAGES)
    assert seconds["pooling"] == 0


def test_one_of_the_photographs_without_windows(small_detector, paths, monkeypatch):
    propose = speed.propose
    second = read_photo(paths[1])

    def propose_for_others(photo, settings):
        windows = propose(photo, settings)
        return windows[:0] if np.array_equal(photo, second) else windows

    monkeypatch.setattr(speed, "propose", propose_for_others)
    result = run_benchmark(small_detector, paths[:2], SETTINGS)
    assert [one["windows"] > 0 for one in result["photographs"]] == [True, False]
    warps = [one["warp"][RCNN] for one in result["photographs"]]
    assert warps[0] > warps[1] == 0
    assert result["contenders"][RCNN]["warp"]["median"] == pytest.approx(warps[0] / 2)


def test_sampling_is_seeded_and_takes_folders_and_labelled_sets(small_voc):
    def sample(data, count, seed):
        return sample_photographs(data, "trainval", count, seed, 1000)

    assert sample(small_voc, 5, 1) == sample(small_voc, 5, 1) != sample(small_voc, 5, 2)
    assert len(set(sample(small_voc, 99, 0))) == 20  # the whole split
    folder = sample(small_voc / "JPEGImages", 99, 0)
    assert len(folder) == 26
    assert sample(small_voc / "JPEGImages", 3, 0) == folder[:3]


def test_the_table_says_that_there_are_no_fc_layers(result, capsys):
    show_benchmark(result)
    text = " ".join(capsys.readouterr().out.split())
    assert "fc (none)" in text
    assert "no fc layers in this model" in text
    assert "R-CNN on 2 of them" in text
    assert "conv + pooling" in text
    assert f"{result['speedup'][TWO]['paper']['median']:.1f}×" in text


def test_fc_layers_are_counted(fc_detector, paths, tmp_path, capsys):
    result = run_benchmark(fc_detector, paths[:1], SETTINGS)
    assert result["fc_layers"] is True
    assert result["photographs"][0]["seconds"][RCNN]["fc"] > 0
    show_benchmark(result)
    text = " ".join(capsys.readouterr().out.split())
    assert "conv + pooling + fc" in text
    assert "no fc layers" not in text


def test_the_chart_is_a_picture(result, tmp_path):
    plot_seconds(result, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as chart:
        assert chart.format == "PNG"
        assert min(chart.size) > 300
        assert len(chart.convert("RGB").getcolors(1 << 24)) > 5


def test_the_command_leaves_json_and_chart(small_model, small_voc, tmp_path, capsys, monkeypatch):
    model = shutil.copytree(small_model, tmp_path / "run")
    options = ("--images", 2, "--scales", "96,160", "--windows", 10, "--rcnn-images", 1)
    arguments = ("benchmark", model, small_voc, *options, "--rcnn", model)
    monkeypatch.setattr(sys, "argv", ["spp-detect", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert "speed-up" in capsys.readouterr().out
    result = json.loads((model / "benchmark" / "benchmark.json").read_text())
    assert result["record"]["command"].startswith("spp-detect benchmark")
    assert [len(one["seconds"]) for one in result["photographs"]] == [3, 2]
    page = (model / "benchmark" / "index.html").read_text()
    written = json.loads((model / "benchmark" / "benchmark.json").read_text())
    for one in written["contenders"].values():
        assert f"<td>{one['all']['median']:.3f}</td>" in page
    for one in written["speedup"].values():
        assert f"<td>{one['all']['median']:.1f}</td>" in page
    assert 'src="benchmark.png"' in page
    with Image.open(model / "benchmark" / "benchmark.png") as chart:
        chart.verify()


def test_bad_input_is_one_line(small_model, small_voc, other_trunk, tmp_path, capsys, monkeypatch):
    def line(*arguments):
        return error_line(capsys, monkeypatch, *arguments, "--out", tmp_path / "out")

    assert "other trunk weights" in line(small_model, small_voc, "--rcnn", other_trunk)
    assert "no such model folder" in line(tmp_path / "none", small_voc)
    assert "no such model folder" in line(small_model, small_voc, "--rcnn", tmp_path / "none")
    assert "none" in line(small_model, tmp_path / "none")
    assert "expected numbers joined by commas" in line(small_model, small_voc, "--scales", "big")
    assert "expected short sides" in line(small_model, small_voc, "--scales", "2,3")
    assert not (tmp_path / "out").exists()
