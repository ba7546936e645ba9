"""Training a classifier: it learns, resumes bit for bit, with several processes, on bad images."""

import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from spp_detect.classification.config import ClassifierConfig
from spp_detect.classification.images import Images, Piece, open_images
from spp_detect.classification.network import Classifier, load_classifier
from spp_detect.training import pretraining
from spp_detect.training.image_crops import CropSource, PreparedImages, draw_crop, measure_colours
from spp_detect.training.pretraining import (
    Pretrainer,
    check_batch,
    choose_size,
    find_rate,
    start_network,
)
from spp_detect.training.run_folder import TrainingError
from spp_detect.training.team import Team

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Two classes, stripes that lie and stripes that stand, of any colour and width."""
    folder = tmp_path_factory.mktemp("stripes")
    random = np.random.default_rng(0)
    for n in range(40):
        name = ("lying", "standing")[n % 2]
        image = np.zeros((50, 60, 3), np.uint8)
        width = random.integers(4, 9)
        image[np.arange(50) // width % 2 == 0] = random.integers(60, 255, 3)
        if name == "standing":
            image = np.ascontiguousarray(image.transpose(1, 0, 2))
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / name / f"{n:02}.png")
    return folder


def make_trainer(folder, images, held_out=None, max_side=1000, device=CPU, **settings):
    settings = {
        "backbone": "small5",
        "fc_width": 16,
        "levels": (2, 1),
        "sizes": (48, 40),
        "epochs": 3,
        "batch": 10,
        "precision": "float32",
        "start": "normed",
        "rate": 0.004,
    } | settings
    config = ClassifierConfig(**settings)
    return Pretrainer(
        config, images, held_out or images, folder, Team(device=device), 10**8, max_side
    )


def test_it_learns_to_tell_stripes_apart(stripes, tmp_path):
    trainer = make_trainer(tmp_path, open_images(stripes, "train"), epochs=8)
    network = trainer.train()
    assert [row[1] for row in trainer.history] == [48, 40] * 4
    assert trainer.history[-1][-1] <= 0.1  # half of them are right by chance
    assert trainer.history[-1][3] < trainer.history[0][3]
    back = load_classifier(tmp_path)
    pixels = torch.randn(2, 3, 40, 70)
    with torch.no_grad():
        torch.testing.assert_close(back(pixels), network(pixels))
    rows = json.loads((tmp_path / "history.json").read_text())
    assert [row["epoch"] for row in rows] == list(range(1, 9))


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("start", ["normed", "normal"])
def test_a_stopped_run_goes_on_bit_for_bit(stripes, tmp_path, monkeypatch, start):
    """Stopped in the middle of the second epoch, its state written in the middle of it."""
    images = open_images(stripes, "train")
    settings = {"start": start, "backbone": "zf5"}
    whole = make_trainer(tmp_path / "whole", images, **settings)
    whole.train()
    monkeypatch.setattr(pretraining, "SECONDS_BETWEEN_STATES", 0.0)
    stopped = make_trainer(tmp_path / "stopped", images, **settings)
    learn = stopped.learn

    def learn_and_stop(step, *batch):
        if step == 6:
            raise StoppedError
        learn(step, *batch)

    monkeypatch.setattr(stopped, "learn", learn_and_stop)
    with pytest.raises(StoppedError):
        stopped.train()
    assert len(stopped.history) == 1
    again = make_trainer(tmp_path / "stopped", images, **settings)
    again.train()
    assert again.history == whole.history
    one, other = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_damaged_state_is_told_in_one_line(stripes, tmp_path):
    images = open_images(stripes, "train")
    state = tmp_path / "work" / pretraining.STATE
    make_trainer(tmp_path, images).train()
    whole = state.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\xff" * 100):
        state.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"pretraining.safetensors: not a whole .*delete"):
            make_trainer(tmp_path, images).train()
    save_file({"step": torch.tensor([1]), "network.odd": torch.zeros(2)}, state)
    with pytest.raises(TrainingError, match=r"not the state of this run; .*delete it") as caught:
        make_trainer(tmp_path, images).train()
    assert "\n" not in str(caught.value)
    state.unlink()
    make_trainer(tmp_path, images).train()


@pytest.mark.gpu
@pytest.mark.parametrize("start", ["normed", "normal"])
def test_a_gpu_learns_as_the_cpu(stripes, tmp_path, monkeypatch, start):
    """Its sums have another order; and what it left when it was stopped is taken up there, too."""
    images = open_images(stripes, "train")
    settings = {"start": start, "epochs": 1}
    monkeypatch.setattr(torch.nn.Dropout, "forward", lambda self, values: values)
    monkeypatch.setattr(pretraining, "SECONDS_BETWEEN_STATES", 0.0)
    one, other = (
        make_trainer(tmp_path / name, images, device=torch.device(name), **settings)
        for name in ("cpu", "cuda")
    )
    one.train(), other.train()
    np.testing.assert_allclose(other.history, one.history, rtol=1e-2)
    again = make_trainer(tmp_path / "cuda", images, device=torch.device("cuda"), **settings)
    assert again._restore() == len(images) // 10


PROGRAM = """
import sys
from torch import nn
from spp_detect import cli, dtype

# Sums of halves of a batch are those of the whole, but for float32's last bits.
dtype.has_fast_bfloat16 = lambda device: False
nn.Dropout.forward = lambda self, values: values  # which each process draws apart
cli.main()
"""


def test_two_processes_learn_as_one(stripes, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    words = ["pretrain", stripes, "--backbone", "zf5", "--fc-width", 16, "--sizes", "64,48"]
    words += ["--epochs", 2, "--batch", 12, "--rate", 0.001, "--init-stddev", 0.02]
    words += ["--device", "cpu", "--threads", 1]
    curves = []
    for processes in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command = [sys.executable, *(launcher if processes == 2 else []), program, *words]
        command += ["--out", tmp_path / str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        kept = {"capture_output": True, "text": True, "timeout": 300}
        done = subprocess.run([*map(str, command)], env=environment, check=False, **kept)
        assert done.returncode == 0, done.stderr
        rows = json.loads((tmp_path / str(processes) / "history.json").read_text())
        curves.append([[row["loss"], row["error"], row["held_out_loss"]] for row in rows])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_labelled_boxes_are_images_too(small_voc, tmp_path):
    images = open_images(small_voc, "trainval")
    trainer = make_trainer(tmp_path, images, epochs=1)
    trainer.train()
    assert len(trainer.history) == 1


def test_damaged_images_are_named_once_and_left_out(stripes, tmp_path, caplog):
    folder = tmp_path / "set"
    for path in sorted(stripes.rglob("*.png")):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    bad = folder / "lying" / "00.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with caplog.at_level(logging.WARNING):
        trainer = make_trainer(tmp_path / "run", open_images(folder, "train"))
        trainer.train()
    named = [record.getMessage() for record in caplog.records if str(bad) in record.getMessage()]
    assert len(named) == 2  # among the images to learn from, and among those held out
    assert trainer.sums.sum() == 0
    assert len(trainer.history) == 3


def test_images_none_of_which_can_be_read_are_told(stripes, tmp_path):
    images = open_images(stripes, "train")
    gone = Images(
        images.classes, tuple(Piece(tmp_path / "no.png") for _ in images.pieces), images.labels
    )
    with pytest.raises(TrainingError, match="none of the images to learn from can be read"):
        make_trainer(tmp_path / "one", gone, images).train()
    with pytest.raises(TrainingError, match="none of the held-out images can be read"):
        make_trainer(tmp_path / "two", images, gone).train()
    with pytest.raises(TrainingError, match="none of the images to learn from"):
        small = {"max_side": 20}
        make_trainer(tmp_path / "three", images, **small).train()


def test_batch_norms_want_two_images():
    config = ClassifierConfig(start="normed", batch=1)
    with pytest.raises(TrainingError, match="batch 1 of 40 images in 1 processes: expected two"):
        check_batch(config, 40, Team(device=CPU))
    check_batch(ClassifierConfig(start="normal", batch=1), 40, Team(device=CPU))


def test_a_loss_that_is_no_number_is_told(stripes, tmp_path):
    trainer = make_trainer(tmp_path, open_images(stripes, "train"), start="normal", rate=1e9)
    with pytest.raises(TrainingError, match="a lower --rate"):
        trainer.train()


def test_images_are_the_same_whatever_the_memory(stripes):
    images = open_images(stripes, "train")
    rich = CropSource(PreparedImages(images, 40, 10**8), 0.1, seed=3, anywhere=True)
    poor = CropSource(PreparedImages(images, 40, 0), 0.1, seed=3, anywhere=True)
    rows = rich.order(2)[:7]
    for one, other in zip(rich.draw(2, rows, 32), poor.draw(2, rows, 32), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(rich.draw(2, rows, 32)[0], rich.draw(3, rows, 32)[0])
    assert sorted(rich.order(2)) == list(range(40))
    assert not np.array_equal(rich.order(2), rich.order(3))


def test_prepared_images_are_no_smaller_than_needed(stripes):
    prepared = PreparedImages(open_images(stripes, "train"), 25, 10**8)
    assert {prepared.read(i).shape for i in range(40)} == {(25, 30, 3), (30, 25, 3)}
    larger = PreparedImages(open_images(stripes, "train"), 500, 10**8)
    assert {larger.read(i).shape for i in range(40)} == {(50, 60, 3), (60, 50, 3)}


def draw_crops(anywhere):
    """Places of 400 crops: each pixel holds its own column and row, which tell where it was cut."""
    image = np.zeros((64, 128, 3), np.uint8)
    image[..., 0] = np.arange(128)
    image[..., 1] = np.arange(64)[:, None]
    random = np.random.default_rng(0)
    crops = [draw_crop(image, 56, random, anywhere=anywhere) for _ in range(400)]
    rising = [int(crop[0, -1, 0]) > int(crop[0, 0, 0]) for crop in crops]
    assert 150 < sum(rising) < 250  # half of them are mirrored
    assert all(int(np.ptp(crop[..., 0])) == 55 for crop in crops)  # 56 pixels as they are
    return [(int(crop[..., 0].min()), int(crop[..., 1].min())) for crop in crops]


def test_crops_of_the_paper_lie_in_the_centre_and_in_the_corners():
    places = draw_crops(anywhere=False)
    assert set(places) == {(36, 4), (0, 0), (72, 0), (0, 8), (72, 8)}
    assert min(places.count(place) for place in set(places)) > 50


def test_crops_lie_anywhere():
    lefts, tops = zip(*draw_crops(anywhere=True), strict=True)
    assert (min(lefts), max(lefts)) == (0, 128 - 56)
    assert len(set(lefts)) > 60
    assert set(tops) == set(range(64 - 56 + 1))


@pytest.mark.parametrize(("start", "anywhere"), [("normal", False), ("normed", True)])
def test_the_papers_start_has_the_papers_crops(stripes, tmp_path, start, anywhere):
    trainer = make_trainer(tmp_path, open_images(stripes, "train"), start=start)
    assert trainer.crops.anywhere == anywhere


def test_colours_vary_along_their_principal_components():
    """Colours that only differ by grey change by grey, as much as they deviate."""
    random = np.random.default_rng(0)
    images = Images(("a", "b"), (), np.zeros(0, int))
    prepared = PreparedImages(images, 32, 0)
    greys = [np.full((32, 32, 3), value, np.uint8) for value in random.integers(0, 256, 50)]
    prepared.images = type("Many", (), {"__len__": lambda self: 50})()
    prepared.read = lambda i: greys[i]
    components = measure_colours(prepared, seed=0)
    deviation = np.std([g[0, 0, 0] for g in greys], ddof=0) * 3**0.5
    lengths = np.sort(np.linalg.norm(components, axis=0))
    np.testing.assert_allclose(lengths, [0, 0, deviation], rtol=1e-3, atol=1e-4)
    largest = components[:, np.argmax(np.linalg.norm(components, axis=0))]
    np.testing.assert_allclose(np.abs(largest), deviation / 3**0.5, rtol=1e-3)


def test_the_rate_falls_twice_where_the_error_stays():
    config = ClassifierConfig(patience=2, rate=0.01)
    errors = [0.9, 0.8, 0.8, 0.81, 0.7, 0.7, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6]
    rates = [find_rate(config, 0, 10, errors[:n]) for n in range(len(errors) + 1)]
    # After 0.81 two epochs had passed since 0.8; after the third 0.7; never a third time.
    expected = [0.01] * 4 + [1e-3] * 3 + [1e-4] * 7
    np.testing.assert_allclose(rates, expected)


def test_a_cycle_rises_and_falls_once():
    config = ClassifierConfig(start="normed", rate=0.5, epochs=10)
    rates = [find_rate(config, step, 20, []) for step in range(200)]
    top = int(np.argmax(rates))
    assert rates[top] == pytest.approx(0.5)
    assert top == 30
    assert (np.diff(rates[: top + 1]) > 0).all()
    assert (np.diff(rates[top:]) < 0).all()
    assert rates[0] == pytest.approx(0.005)
    assert rates[-1] < 0.006


def test_sizes_take_turns_or_are_drawn():
    config = ClassifierConfig(sizes=(224, 180))
    assert [choose_size(config, epoch) for epoch in range(4)] == [224, 180, 224, 180]
    drawn = ClassifierConfig(sizes=(224, 180), random_sizes=True)
    sizes = {choose_size(drawn, epoch) for epoch in range(600)}
    assert sizes == set(range(180, 225))


@pytest.mark.parametrize("stddev", [0.01, 0.03])
def test_first_weights_of_the_paper(stddev):
    config = ClassifierConfig(init_stddev=stddev, fc_width=512)
    network = start_network(config, ("a", "b", "c"))
    layers = {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    spreads = {name: float(layer.weight.detach().std()) for name, layer in layers.items()}
    assert all(value == pytest.approx(stddev, rel=0.05) for value in spreads.values()), spreads
    biases = [float(layer.bias.detach().unique()) for layer in layers.values()]
    assert biases == [0, 1, 0, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("start", ["normal", "normed"])
def test_a_trunk_with_norms_keeps_its_own_start(start):
    config = ClassifierConfig("resnet18", start=start, fc_width=8)
    torch.manual_seed(config.seed)
    expected = Classifier(config, ("a", "b")).trunk.state_dict()
    found = start_network(config, ("a", "b")).trunk.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert float(expected["layers.layer3.0.conv1.weight"].std()) > 0.02
