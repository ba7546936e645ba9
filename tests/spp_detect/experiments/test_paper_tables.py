"""The paper's tables on a small set: every cell, from runs that go on, and their text."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from data import open_dataset
from spp_detect.backbones import build_backbone
from spp_detect.config import ConfigError
from spp_detect.detector import Detector, make_proposal_settings
from spp_detect.evaluation import detect_dataset, measure
from spp_detect.experiments import published
from spp_detect.experiments.paper_tables import TableMaker, TablePlan
from spp_detect.prefetch import search_windows
from spp_detect.training.run import Resources, TrainingRun
from spp_detect.training.run_folder import TrainingError


def make_backbone():
    torch.manual_seed(0)
    return build_backbone("small5")


@pytest.fixture(scope="module")
def plan(small_voc, small_config):
    train, test = open_dataset(small_voc, "val"), open_dataset(small_voc, "test")
    config = small_config(fc_width=16, max_windows=40)
    return TablePlan(train, test, config, 4, ((160,), (120, 160)), published.COLUMNS, 1, 25)


@pytest.fixture(scope="module")
def tables(plan, tmp_path_factory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("tables")
    return out, TableMaker(out, plan, make_backbone, Resources(torch.device("cpu"))).fill()


def test_every_cell_is_filled(tables):
    out, result = tables
    assert {c: set(cells) for c, cells in result["mean_ap"].items()} == {
        column: {*published.ROWS, "ftfc7 bb, vote"} for column in published.COLUMNS
    }
    assert all(0 <= ap <= 1 for cells in result["mean_ap"].values() for ap in cells.values())
    assert json.loads((out / "tables.json").read_text()) == json.loads(json.dumps(result))
    assert not list(out.rglob("maps"))  # they were shared, and are gone


def test_cells_are_of_the_models_that_they_name(tables, plan):
    out, result = tables
    for column, extractor, scales in (
        ("1 scale", "spp", (160,)),
        ("5 scales", "spp", (120, 160)),
        ("R-CNN", "rcnn", (160,)),
    ):
        for model, feature in (("pool5", "pool5"), ("ftfc6", "fc6"), ("ftfc7", "fc7")):
            detector = Detector.load(out / column.replace(" ", "_") / model, "cpu")
            assert detector.config.extractor == extractor
            assert detector.config.scales == scales
            assert detector.config.feature == feature
    detector = Detector.load(out / "5_scales" / "ftfc7", "cpu")
    for row, regress, vote in (
        ("ftfc7", False, False),
        ("ftfc7 bb", True, False),
        ("ftfc7 bb, vote", True, True),
    ):
        found = detect_dataset(detector, plan.test, regress=regress, vote=vote)
        assert measure(found, plan.test)[1]["mAP"] == result["mean_ap"]["5 scales"][row]


def test_rcnn_learns_from_fewer_windows_and_is_measured_on_all(tables, plan):
    out, result = tables
    rcnn = Detector.load(out / "R-CNN" / "pool5", "cpu")
    assert rcnn.config.max_windows == 25
    assert Detector.load(out / "1_scale" / "pool5", "cpu").config.max_windows == 40
    source = search_windows(make_proposal_settings(plan.config))
    found = detect_dataset(rcnn, plan.test, source=source, regress=False)
    assert measure(found, plan.test)[1]["mAP"] == result["mean_ap"]["R-CNN"]["pool5"]
    assert "on the first 25 windows" in (out / "tables.md").read_text()


def test_fc6_and_fc7_were_tuned_together(tables):
    out, _ = tables
    six, seven = (Detector.load(out / "1_scale" / name, "cpu") for name in ("ftfc6", "ftfc7"))
    assert six.fc is not None
    assert seven.fc is not None
    assert torch.equal(six.fc.layers.fc6.weight, seven.fc.layers.fc6.weight)


def test_filled_cells_are_not_trained_again(tables, plan, monkeypatch):
    out, result = tables
    monkeypatch.setattr(TrainingRun, "train", lambda _: pytest.fail("trained again"))
    again = TableMaker(out, plan, make_backbone, Resources(torch.device("cpu"))).fill()
    assert again["mean_ap"] == result["mean_ap"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": 5}, r"plan\.json: the tables were begun with other iterat"),
        ({"rcnn_windows": 24}, r"R-CNN/plan\.json: .* other training windows: 25"),
    ],
)
def test_another_plan_is_refused_where_cells_stand(tables, plan, change, message):
    out, _ = tables
    other = dataclasses.replace(plan, **change)
    maker = TableMaker(out, other, make_backbone, Resources(torch.device("cpu")))
    with pytest.raises(TrainingError, match=message):
        maker.fill()


def test_one_scale_is_not_several(plan):
    with pytest.raises(ConfigError, match="at least two"):
        dataclasses.replace(plan, scales=((160,), (120,)))


def test_the_text_sets_ours_beside_the_papers(tables):
    out, result = tables
    text = (out / "tables.md").read_text()
    assert "| ftfc7 bb | " in text
    ours = f"{100 * result['mean_ap']['5 scales']['ftfc7 bb']:.1f} (59.2)"
    assert ours in text
    assert "(102×)" in text
    assert (
        f"| ftfc7 bb, vote | {100 * result['mean_ap']['1 scale']['ftfc7 bb, vote']:.1f} |" in text
    )
