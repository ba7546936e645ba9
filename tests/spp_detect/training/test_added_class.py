"""A class more: the others stay bit for bit, and it is what it would have been with them."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from data import open_dataset, read_photo, select_classes
from spp_detect import cli
from spp_detect.detector import Detector
from spp_detect.model_folder import ModelError
from spp_detect.training.added_class import add_class, add_negatives, remove_class
from spp_detect.training.feature_cache import Resources

CPU = Resources(torch.device("cpu"))
NEW = "star"


@pytest.fixture(scope="module")
def four(small_set, make_run, small_config, tmp_path_factory):
    """A model of all classes but one."""
    others = [name for name in small_set.classes if name != NEW]
    folder = tmp_path_factory.mktemp("four") / "run"
    make_run(folder, select_classes(small_set, others), small_config()).train()
    return Detector.load(folder, "cpu")


@pytest.fixture(scope="module")
def five(four, small_set, tmp_path_factory):
    """The same with the class added."""
    one = select_classes(small_set, [NEW])
    return add_class(four, one, tmp_path_factory.mktemp("added"), CPU)


def test_the_others_stay_bit_for_bit(four, five):
    assert five.classes == (*four.classes, NEW)
    for ours, theirs in zip(five.heads.buffers(), four.heads.buffers(), strict=True):
        assert len(ours) == len(theirs) + 1
        assert torch.equal(ours[:-1], theirs)
    assert five.extractor is four.extractor


def test_it_is_what_it_would_have_been_with_them(four, five, small_detector, small_set):
    """Scores of windows: nearly those of the model that learnt all five together."""
    c = small_detector.classes.index(NEW)
    ours, theirs = [], []
    for photograph in small_set.photographs[:5]:
        photo = read_photo(photograph.path)
        windows = photograph.labels.boxes
        theirs.append(small_detector.score(photo, windows).scores[:, c])
        ours.append(five.score(photo, windows).scores[:, -1])
    ours, theirs = torch.cat(ours).numpy(), torch.cat(theirs).numpy()
    assert np.corrcoef(ours, theirs)[0, 1] > 0.95


def test_a_class_that_is_removed_is_gone_and_no_other(five, four, small_set):
    back = remove_class(five, NEW)
    assert back.classes == four.classes
    for ours, theirs in zip(back.heads.buffers(), four.heads.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    middle = remove_class(five, four.classes[1])
    assert middle.classes == (four.classes[0], *four.classes[2:], NEW)
    assert torch.equal(middle.heads.svm_coef[1:], five.heads.svm_coef[2:])
    photo = read_photo(small_set.photographs[0].path)
    kept = five.detect(photo)
    kept = kept[kept.labels != 1]
    found = middle.detect(photo)
    # The products of fewer columns may be rounded another way.
    np.testing.assert_allclose(np.sort(found.scores), np.sort(kept.scores), atol=1e-6)


def test_photographs_without_objects_are_negatives(small_set, tmp_path):
    path = tmp_path / "empty.jpg"
    shutil.copy(small_set.photographs[0].path, path)
    more = add_negatives(select_classes(small_set, [NEW]), [path])
    assert len(more) == len(small_set) + 1
    assert len(more.photographs[-1].labels) == 0
    assert more.photographs[-1].width == small_set.photographs[0].width


def test_what_cannot_be_added_or_removed(four, small_set, tmp_path):
    with pytest.raises(ModelError, match="the model has it"):
        add_class(four, select_classes(small_set, [four.classes[0]]), tmp_path, CPU)
    with pytest.raises(ModelError, match="expected one of"):
        remove_class(four, NEW)
    alone = four
    for name in four.classes[1:]:
        alone = remove_class(alone, name)
    with pytest.raises(ModelError, match="not the only one"):
        remove_class(alone, four.classes[0])


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["spp-detect", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_the_commands(four, small_voc, tmp_path, monkeypatch, capsys):
    four.save(tmp_path / "four")
    negatives = tmp_path / "negatives"
    negatives.mkdir()
    name = open_dataset(small_voc, "test").photographs[0].path
    shutil.copy(name, negatives)
    options = ("--class", NEW, "--out", tmp_path / "five", "--negatives", negatives)
    assert run(monkeypatch, "add-class", tmp_path / "four", small_voc, *options) == 0
    description = json.loads((tmp_path / "five" / "config.json").read_text())
    assert description["classes"] == [*four.classes, NEW]
    assert sorted(path.name for path in (tmp_path / "five").iterdir()) == [
        "config.json",
        "model.safetensors",
        "photographs.json",
    ]
    files = json.loads((tmp_path / "five" / "photographs.json").read_text())
    assert len(files) == len(open_dataset(small_voc, "trainval")) + 1
    options = ("--class", NEW, "--out", tmp_path / "back")
    assert run(monkeypatch, "remove-class", tmp_path / "five", *options) == 0
    ours, theirs = ((tmp_path / one / "model.safetensors").read_bytes() for one in ("back", "four"))
    assert ours == theirs
    capsys.readouterr()
    assert run(monkeypatch, "remove-class", tmp_path / "back", *options) == 2
    assert "not an empty folder" in capsys.readouterr().err
    unknown = ("--class", "unicorn", "--out", tmp_path / "x")
    assert run(monkeypatch, "add-class", tmp_path / "four", small_voc, *unknown) == 2
    assert "unicorn" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
