"""The configuration: the constants of paper and release, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from spp_detect import Config, make_config
from spp_detect.config import ConfigError, config_from_mapping, to_mapping


def test_release_constants():
    config = make_config("release")
    assert config.preset == "release"
    assert config.levels == (6, 3, 2, 1)
    assert config.scales == (688,)
    assert (config.projection, config.scale_rule) == ("release", "release")
    assert config.feature_norm == 20
    assert (config.norm_photographs, config.norm_windows) == (200, 200)
    assert (config.svm_c, config.bias_multiplier, config.positive_weight) == (1e-3, 10, 2)
    assert config.svm_tolerance == 0.1
    assert config.negative_iou == 0.3
    assert config.negative_overlap is None
    assert (config.hard_score, config.evict_score, config.retrain_after) == (-1, -1.2, 2000)
    assert (config.regression_iou, config.regression_lambda) == (0.5, 4000)
    assert (config.score_threshold, config.nms_iou, config.max_detections) == (-1.5, 0.3, 100)


def differences(one, other):
    one, other = to_mapping(make_config(one)), to_mapping(make_config(other))
    return {key: one[key] for key in one if key != "preset" and one[key] != other[key]}


def test_the_presets_differ_where_paper_and_release_do():
    assert differences("paper", "release") == {
        "projection": "paper",
        "scale_rule": "paper",
        "negative_overlap": 0.7,
        "regression_lambda": 1000.0,  # R-CNN's, the paper gives none
        "svm_tolerance": 0.01,
        "finetune_rates": (1e-4, 1e-5),
        "finetune_shares": (5 / 6, 1 / 6),
    }


def test_every_other_default_is_of_the_paper_or_of_the_release():
    assert make_config() == make_config("default") == Config()
    own = set(differences("default", "paper")) & set(differences("default", "release"))
    assert own == {
        *("regression_lambda", "mirror_positives"),
        *("finetune_rates", "finetune_shares"),  # the paper's and the release's are for days
        "vote_iou",  # neither has a vote
    }


@pytest.mark.parametrize("preset", ["release", "paper"])
def test_changes_leave_the_rest_of_the_preset(preset):
    changed = make_config(preset, scales=(480, 576), svm_c=0.5, negative_overlap=None)
    assert (changed.scales, changed.svm_c, changed.negative_overlap) == ((480, 576), 0.5, None)
    assert changed.projection == preset


@pytest.mark.parametrize(
    "config",
    [
        make_config("release"),
        make_config("paper", scales=(480, 576, 688, 864, 1200), levels=(4, 2), backbone="zf5"),
        make_config("release", negative_overlap=0.5, seed=7),
    ],
    ids=["release", "paper", "changed"],
)
def test_round_trip_through_json(config):
    again = config_from_mapping(json.loads(json.dumps(to_mapping(config))))
    assert again == config
    assert [type(v) for v in to_mapping(again).values()] == [
        type(v) for v in to_mapping(config).values()
    ]


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config().svm_c = 1.0
    assert hash(make_config()) == hash(make_config())


def test_whole_numbers_serve_as_floats():
    config = make_config(svm_c=1, regression_lambda=1000)
    assert (type(config.svm_c), config.svm_c) == (float, 1.0)
    assert type(config.regression_lambda) is float


def test_a_whole_number_serves_where_none_may_stand_too():
    config = config_from_mapping({"negative_overlap": 1})
    assert (type(config.negative_overlap), config.negative_overlap) == (float, 1.0)


def test_lists_serve_as_tuples():
    config = make_config(scales=[480, 688], levels=[3, 1])
    assert (config.scales, config.levels) == ((480, 688), (3, 1))


def test_a_mapping_may_leave_out_keys():
    assert config_from_mapping({}) == Config()
    assert config_from_mapping({"seed": 3}).seed == 3


def refuse(match, **changes):
    with pytest.raises(ConfigError, match=match) as caught:
        make_config(**changes)
    assert "\n" not in str(caught.value)


def test_unknown_keys():
    refuse("unknown key 'svm_d'", svm_d=1)
    with pytest.raises(ConfigError, match="unknown key 'Scales'"):
        config_from_mapping({"Scales": [688], "seed": 1})


def test_unknown_preset():
    for preset in ("papers", "", "PAPER"):
        with pytest.raises(ConfigError, match="expected one of default, paper, release"):
            make_config(preset)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_windows", True),
        ("max_windows", 2000.0),
        ("max_windows", "2000"),
        ("max_windows", None),
        ("svm_c", "0.001"),
        ("svm_c", True),
        ("svm_c", None),
        ("hard_score", [1.0]),
        ("backbone", 18),
        ("backbone", None),
        ("weights", ["none"]),
        ("scales", 688),
        ("scales", "688"),
        ("scales", [688.0]),
        ("scales", [688, True]),
        ("scales", [[688]]),
        ("scales", {"688": 1}),
        ("levels", 6),
        ("levels", ["6"]),
        ("levels", [6.0]),
        ("negative_overlap", "0.7"),
        ("negative_overlap", False),
        ("projection", 1),
        ("seed", 0.5),
        ("preset", None),
    ],
)
def test_wrong_types(name, value):
    with pytest.raises(ConfigError, match=f"^{name} .*expected") as caught:
        config_from_mapping({name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales", ()),
        ("scales", (688, 15)),
        ("scales", (-688,)),
        ("scales", (6001,)),
        ("long_side_limit", 100),
        ("levels", ()),
        ("levels", (6, 0)),
        ("levels", (-1,)),
        ("projection", "both"),
        ("scale_rule", "nearest"),
        ("max_windows", 0),
        ("max_windows", -5),
        ("max_detections", 0),
        ("retrain_after", 0),
        ("svm_c", 0.0),
        ("svm_c", -1.0),
        ("nms_iou", 0.0),
    ],
)
def test_out_of_range(name, value):
    refuse("expected", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("svm_c", float("nan")),
        ("svm_c", float("inf")),
        ("score_threshold", float("nan")),
        ("regression_lambda", -1.0),
        ("regression_iou", 1.5),
        ("negative_iou", -0.1),
        ("negative_overlap", 1.5),
        ("nms_iou", 1.5),
        ("feature_norm", 0.0),
        ("norm_photographs", 0),
        ("norm_windows", 0),
        ("svm_tolerance", 0.0),
        ("bias_multiplier", 0.0),
        ("positive_weight", -2.0),
        ("seed", -1),
        ("fc_width", 0),
        ("finetune_iterations", -1),
        ("finetune_positives", 0),
        ("finetune_rates", (0.1, -0.1)),
        ("finetune_rates", (0.1,)),
        ("finetune_shares", (0.5, 0.6)),
        ("finetune_background", (0.5, 0.1)),
        ("finetune_background", (0.1, 0.6)),
        ("finetune_momentum", 1.5),
    ],
)
def test_values_that_no_run_can_use(name, value):
    """Each would fail later, in the middle of a training, or train nonsense."""
    refuse(f"^{name} ", **{name: value})


@pytest.mark.parametrize("preset", ["default", "paper", "release"])
def test_keys_that_json_lacks_are_the_presets(preset):
    whole = make_config(preset, svm_c=0.5)
    held = {key: value for key, value in to_mapping(whole).items() if key in ("preset", "svm_c")}
    assert config_from_mapping(held) == whole
