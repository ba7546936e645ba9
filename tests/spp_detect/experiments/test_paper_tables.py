"""The paper's tables on a small set: every cell, from runs that go on, and their text."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from data import open_dataset
from spp_detect.backbones import build_backbone
from spp_detect.config import ConfigError
from spp_detect.detector import Detector, make_proposal_settings
from spp_detect.evaluation import detect_dataset, measure
from spp_detect.experiments import published
from spp_detect.experiments.paper_tables import TableMaker, TablePlan
from spp_detect.prefetch import search_windows
from spp_detect.training.feature_cache import Resources
from spp_detect.training.finetuning import FineTuner
from spp_detect.training.run import TrainingRun
from spp_detect.training.run_folder import TrainingError


def make_backbone():
    torch.manual_seed(0)
    return build_backbone("small5")


@pytest.fixture(scope="module")
def plan(small_voc, small_config):
    train, test = open_dataset(small_voc, "val"), open_dataset(small_voc, "test")
    config = small_config(fc_width=16, max_windows=40, finetune_iterations=4, feature="fc7")
    return TablePlan(train, test, config, ((160,), (120, 160)), published.COLUMNS, 1, 25)


@dataclasses.dataclass
class Watched:
    """What was seen of the runs while the tables were filled.

    Attributes
    ----------
    tuned : folders of the runs that tuned layers.
    trained : per run its folder, and those of other runs' files that it changed or made.
    """

    tuned: list[Path]
    trained: dict[Path, set[Path]]


def look(out):
    """The models' files by path: when and as what they were written, maps left out."""
    files = [path for path in out.glob("*/*/**/*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in files}


@pytest.fixture(scope="module")
def watched_tables(plan, tmp_path_factory) -> tuple[Path, dict, Watched]:
    out = tmp_path_factory.mktemp("tables")
    seen = Watched([], {})
    tune, train = FineTuner.tune, TrainingRun.train

    def watch_tuning(self):
        seen.tuned.append(self.state_path.parents[1])
        return tune(self)

    def watch_training(self):
        before = look(out)
        detector = train(self)
        own = {self.folder, out / self.folder.parent / "maps"}
        seen.trained[self.folder] = {
            path
            for path, written in look(out).items()
            if before.get(path) != written and not own & set(path.parents)
        }
        return detector

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuner, "tune", watch_tuning)
        patch.setattr(TrainingRun, "train", watch_training)
        result = TableMaker(out, plan, make_backbone, Resources(torch.device("cpu"))).fill()
    return out, result, seen


@pytest.fixture(scope="module")
def tables(watched_tables) -> tuple[Path, dict]:
    return watched_tables[:2]


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
    source = search_windows(make_proposal_settings(plan.config.model))
    found = detect_dataset(rcnn, plan.test, source=source, regress=False)
    assert measure(found, plan.test)[1]["mAP"] == result["mean_ap"]["R-CNN"]["pool5"]
    assert "on the first 25 windows" in (out / "tables.md").read_text()


def test_fc6_and_fc7_were_tuned_together(tables):
    out, _ = tables
    six, seven = (Detector.load(out / "1_scale" / name, "cpu") for name in ("ftfc6", "ftfc7"))
    assert six.fc is not None
    assert seven.fc is not None
    assert torch.equal(six.fc.layers.fc6.weight, seven.fc.layers.fc6.weight)


def test_the_layers_of_fc7_are_shared_where_they_lie(watched_tables):
    """ftfc6 neither tunes nor copies them, and no run writes into another's folder."""
    out, _, seen = watched_tables
    columns = [out / column.replace(" ", "_") for column in published.COLUMNS]
    assert seen.tuned == [column / "ftfc7" for column in columns]
    assert list(seen.trained) == [
        column / model for column in columns for model in ("pool5", "fc6", "ftfc7", "ftfc6")
    ]
    assert set().union(*seen.trained.values()) == set()
    for column in columns:
        tuned = load_file(column / "ftfc7" / "work" / "tuned.safetensors")
        assert (column / "ftfc7" / "finetuning.json").is_file()
        names = {path.name for path in (column / "ftfc6").rglob("*")}
        assert not names & {"tuned.safetensors", "fc.safetensors", "finetuning.json"}
        history = (column / "ftfc6" / "history.jsonl").read_text()
        assert '"fine-tuning"' in history
        assert '"fc start"' not in history
        model = load_file(column / "ftfc6" / "model.safetensors")
        assert torch.equal(model["fc.layers.fc6.weight"], tuned["fc.layers.fc6.weight"])
        assert torch.equal(model["fc.layers.fc6.bias"], tuned["fc.layers.fc6.bias"])


def test_filled_cells_are_not_trained_again(tables, plan, monkeypatch):
    out, result = tables
    monkeypatch.setattr(TrainingRun, "train", lambda _: pytest.fail("trained again"))
    again = TableMaker(out, plan, make_backbone, Resources(torch.device("cpu"))).fill()
    assert again["mean_ap"] == result["mean_ap"]


@pytest.mark.parametrize(
    ("change", "constants", "message"),
    [
        (
            {},
            {"finetune_iterations": 5},
            r"plan\.json: .* begun with finetune_iterations 4, now .* 5",
        ),
        ({}, {"svm_c": 0.5}, r"plan\.json: the tables were begun with svm_c 0.001, now it is 0.5"),
        ({"photographs": 2}, {}, r"plan\.json: the tables were begun with other photographs timed"),
        ({"rcnn_windows": 24}, {}, r"R-CNN/plan\.json: .* other training windows: 25"),
    ],
)
def test_another_plan_is_refused_where_cells_stand(tables, plan, change, constants, message):
    out, _ = tables
    training = dataclasses.replace(plan.config.training, **constants)
    config = dataclasses.replace(plan.config, training=training)
    other = dataclasses.replace(plan, config=config, **change)
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
