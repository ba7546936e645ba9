"""The configuration: the constants of paper and release, and everything that is refused."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from spp_detect import Config, make_config
from spp_detect.config import (
    PRESETS,
    ConfigError,
    RunConfig,
    TrainingConfig,
    config_from_mapping,
    make_run_config,
    make_training_config,
    parse_setting,
    read_settings,
    split_values,
    to_mapping,
)
from spp_detect.parts import PARTS, Window


def all_values(config: RunConfig) -> dict:
    """The constants of both halves, which share no name."""
    model, training = to_mapping(config.model), to_mapping(config.training)
    assert not set(model) & set(training)
    return model | training


def test_release_constants():
    config = make_config("release")
    training = make_training_config("release")
    assert config.preset == "release"
    assert config.levels == (6, 3, 2, 1)
    assert config.scales == (480, 576, 688, 874, 1200)
    assert (config.projection, config.scale_rule) == ("release", "release")
    assert config.parts == ("window",)
    assert training.feature_norm == 20
    assert (training.norm_photographs, training.norm_windows) == (200, 200)
    assert (training.svm_c, training.bias_multiplier, training.positive_weight) == (1e-3, 10, 2)
    assert training.svm_tolerance == 0.1
    assert training.negative_iou == 0.3
    assert training.negative_overlap is None
    assert (training.hard_score, training.evict_score, training.retrain_after) == (
        -1.0001,
        -1.2,
        2000,
    )
    assert (training.regression_iou, training.regression_lambda) == (0.5, 4000)
    assert (config.score_threshold, config.nms_iou, config.max_detections) == (-1.5, 0.3, 100)


def differences(one, other):
    one, other = all_values(make_run_config(one)), all_values(make_run_config(other))
    return {key: one[key] for key in one if key != "preset" and one[key] != other[key]}


def test_the_presets_differ_where_paper_and_release_do():
    assert differences("paper", "release") == {
        "backbone": "zf5_paper",
        "scales": (480, 576, 688, 864, 1200),
        "long_side_rounding": "nearest",
        "distinct": "clamped",
        "projection": "paper",
        "scale_rule": "paper",
        "negative_overlap": 0.7,
        "difficult_negatives": False,
        "hard_score": -1.0,
        "regression_lambda": 1000.0,  # R-CNN's, the paper gives none
        "regression_inclusive": False,
        "regression_strict": False,
        "svm_tolerance": 0.01,
        "finetune_iterations": 300_000,
        "finetune_rates": (1e-4, 1e-5),
        "finetune_shares": (5 / 6, 1 / 6),
        "fc8_bias_rate": 1.0,
        "fc8_bias_decay": True,
        "fc8_background_bias": 0.0,
    }


def test_every_other_default_is_of_the_paper_or_of_the_release():
    assert make_config() == make_config("default") == Config()
    assert make_training_config() == make_training_config("default") == TrainingConfig()
    assert make_run_config() == RunConfig(Config(), TrainingConfig())
    own = set(differences("default", "paper")) & set(differences("default", "release"))
    assert own == {
        # A frozen ResNet-18 at one scale: what a machine without a GPU trains in minutes.
        *("backbone", "scales", "feature", "finetune_iterations", "fc_start", "precision"),
        *("proposals", "min_window_side"),
        *("regression_lambda", "mirror_positives"),
        *("finetune_rates", "finetune_shares"),  # the paper's and the release's are for days
        *("passes", "vote_iou", "support"),  # neither scores moved windows or has a vote
    }


@pytest.mark.parametrize("preset", ["release", "paper"])
def test_changes_leave_the_rest_of_the_preset(preset):
    changed = make_run_config(preset, scales=(480, 576), svm_c=0.5, negative_overlap=None)
    training = changed.training
    assert (changed.model.scales, training.svm_c, training.negative_overlap) == (
        (480, 576),
        0.5,
        None,
    )
    rest = {"scales", "svm_c", "negative_overlap"}
    whole = all_values(make_run_config(preset))
    assert {k: v for k, v in all_values(changed).items() if k not in rest} == {
        k: v for k, v in whole.items() if k not in rest
    }


@pytest.mark.parametrize(
    "config",
    [
        make_config("release"),
        make_config("paper", scales=(480, 576, 688, 864, 1200), levels=(4, 2), backbone="zf5"),
        make_config("release", vote_iou=0.5, seed=7),
        make_training_config("release"),
        make_training_config("release", negative_overlap=0.5, finetune_iterations=7),
    ],
    ids=["release", "paper", "changed", "its training", "its training, changed"],
)
def test_round_trip_through_json(config):
    held = json.loads(json.dumps(to_mapping(config)))
    again = config_from_mapping(held) if type(config) is Config else make_training_config(**held)
    assert again == config
    assert [type(v) for v in to_mapping(again).values()] == [
        type(v) for v in to_mapping(config).values()
    ]


def test_frozen():
    for config, name in (
        (make_config(), "nms_iou"),
        (make_training_config(), "svm_c"),
        (make_run_config(), "model"),
    ):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(config, name, 1.0)
    assert hash(make_run_config()) == hash(make_run_config())


def test_whole_numbers_serve_as_floats():
    config = make_training_config(svm_c=1, regression_lambda=1000)
    assert (type(config.svm_c), config.svm_c) == (float, 1.0)
    assert type(config.regression_lambda) is float


def test_a_whole_number_serves_where_none_may_stand_too():
    config = config_from_mapping({"vote_iou": 1})
    assert (type(config.vote_iou), config.vote_iou) == (float, 1.0)
    training = make_training_config(negative_overlap=1)
    assert (type(training.negative_overlap), training.negative_overlap) == (float, 1.0)


def test_lists_serve_as_tuples():
    config = make_config(scales=[480, 688], levels=[3, 1])
    assert (config.scales, config.levels) == ((480, 688), (3, 1))
    training = make_training_config(finetune_rates=[0.1, 0.01], finetune_shares=[0.5, 0.5])
    assert (training.finetune_rates, training.finetune_shares) == ((0.1, 0.01), (0.5, 0.5))


def test_a_mapping_may_leave_out_keys():
    assert config_from_mapping({}) == Config()
    assert config_from_mapping({"seed": 3}).seed == 3


def refuse(match, **changes):
    with pytest.raises(ConfigError, match=match) as caught:
        make_run_config(**changes)
    assert "\n" not in str(caught.value)


def test_unknown_keys():
    refuse("unknown key 'svm_d'", svm_d=1)
    with pytest.raises(ConfigError, match="unknown key 'Scales'"):
        config_from_mapping({"Scales": [688], "seed": 1})
    # Each half knows its own keys alone.
    with pytest.raises(ConfigError, match="unknown key 'svm_c'"):
        make_config(svm_c=1.0)
    with pytest.raises(ConfigError, match="unknown key 'scales'"):
        make_training_config(scales=(688,))


def test_unknown_preset():
    for preset in ("papers", "", "PAPER"):
        for make in (make_config, make_training_config, make_run_config):
            with pytest.raises(ConfigError, match="expected one of default, paper, release"):
                make(preset)


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
        ("mirror_positives", 1),
        ("mirror_positives", "true"),
        ("finetune_rates", (1, 0.1)),
        ("finetune_rates", 0.1),
        ("parts", "window"),
        ("parts", [1]),
        ("projection", 1),
        ("seed", 0.5),
        ("preset", None),
    ],
)
def test_wrong_types(name, value):
    with pytest.raises(ConfigError, match=f"^{name} .*expected") as caught:
        make_run_config(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scales", ()),
        ("scales", (688, 15)),
        ("scales", (-688,)),
        ("scales", (6001,)),
        ("long_side_limit", 100),
        ("parts", ()),
        ("parts", ("window", "context")),
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
    whole = make_config(preset, seed=5)
    held = {key: value for key, value in to_mapping(whole).items() if key in ("preset", "seed")}
    assert config_from_mapping(held) == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fc_rank": 8}, "fc_rank 8: expected 0"),
        (
            {"train_from": "layer3", "finetune_iterations": 4, "extractor": "rcnn"},
            "train_from 'layer3': expected none with extractor rcnn",
        ),
        (
            {"train_from": "layer3", "finetune_iterations": 4, "parts": ("window", "early")},
            "train_from 'layer3': expected none with parts of earlier layers",
        ),
        ({"train_from": "layer3"}, "train_from 'layer3': expected finetune_iterations above 0"),
        ({"finetune_iterations": 4}, "feature 'pool5': fine-tuning the fc layers does not"),
    ],
)
def test_halves_that_do_not_fit_together(monkeypatch, changes, words):
    early = Window()
    early.layer = "layer2"
    monkeypatch.setitem(PARTS, "early", early)
    refuse(f"^{re.escape(words)}", **changes)
    # Each half by itself is sound.
    model, training = split_values(changes)
    make_config(**model)
    make_training_config(**training)


@pytest.mark.parametrize(
    ("changes", "has_fc"),
    [
        ({}, False),
        ({"feature": "fc6"}, True),
        ({"feature": "fc7", "finetune_iterations": 4}, True),
        ({"finetune_iterations": 4, "train_from": "layer3"}, False),
    ],
)
def test_fc_layers_are_there_where_the_svms_take_theirs(changes, has_fc):
    assert make_run_config(**changes).has_fc == has_fc


def test_values_are_split_by_whose_they_are():
    model, training = split_values({"svm_c": 0.5, "scales": (480,), "speed": 1})
    assert training == {"svm_c": 0.5}
    assert model == {"scales": (480,), "speed": 1}  # where it is refused


def write_out(value) -> str:
    """A value as a person types it."""
    if isinstance(value, tuple):
        return ",".join(map(write_out, value))
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_field_is_parsed_to_what_it_was(preset):
    for key, value in all_values(make_run_config(preset)).items():
        if value != ():
            found = parse_setting(f"{key}={write_out(value)}")
            assert found == (key, value)
            assert type(found[1]) is type(value)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("backbone=zf5", "backbone", "zf5"),
        ("weights=a=b.pth", "weights", "a=b.pth"),  # the first sign parts them
        ("train_from=", "train_from", ""),
        ("max_windows=2000", "max_windows", 2000),
        ("hard_score=-1.5", "hard_score", -1.5),
        ("svm_c=1e-3", "svm_c", 0.001),
        ("svm_c=1", "svm_c", 1.0),
        ("mirror_positives=true", "mirror_positives", True),
        ("mirror_positives=False", "mirror_positives", False),
        ("scales=480,688", "scales", (480, 688)),
        ("levels=1", "levels", (1,)),
        ("finetune_rates=1e-3,0.0001", "finetune_rates", (0.001, 0.0001)),
        ("parts=window,window", "parts", ("window", "window")),
        ("vote_iou=none", "vote_iou", None),
        ("vote_iou=0.5", "vote_iou", 0.5),
        ("negative_overlap=None", "negative_overlap", None),
        ("negative_overlap=1", "negative_overlap", 1.0),
    ],
)
def test_settings_of_every_kind(text, key, value):
    found = parse_setting(text)
    assert found == (key, value)
    assert type(found[1]) is type(value)
    if isinstance(value, tuple):
        assert [type(one) for one in found[1]] == [type(one) for one in value]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'': expected key=value"),
        ("svm_c", "'svm_c': expected key=value"),
        ("=3", "'=3': expected key=value"),
        ("svm_d=3", "'svm_d=3': expected key=value"),
        ("SVM_C=3", "'SVM_C=3': expected key=value"),
        ("svm_c=", "svm_c '': expected float"),
        ("svm_c=low", "svm_c 'low': expected float"),
        ("svm_c=none", "svm_c 'none': expected float"),
        ("seed=0.5", "seed '0.5': expected int"),
        ("mirror_positives=1", "mirror_positives '1': expected bool"),
        ("mirror_positives=yes", "mirror_positives 'yes': expected bool"),
        ("vote_iou=off", "vote_iou 'off': expected float"),
        ("scales=", "scales '': expected tuple"),
        ("scales=480,", "scales '480,': expected tuple"),
        ("scales=480;688", "scales '480;688': expected tuple"),
        ("levels=6.0", "levels '6.0': expected tuple"),
    ],
)
def test_settings_that_cannot_be_read(text, words):
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}") as caught:
        parse_setting(text)
    assert "\n" not in str(caught.value)


def test_settings_from_a_file(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"scales": [480, 688], "svm_c": 0.5, "vote_iou": null, "backbone": "zf5"}')
    settings = read_settings(path)
    assert settings == {"scales": (480, 688), "svm_c": 0.5, "vote_iou": None, "backbone": "zf5"}
    config = make_run_config("paper", **settings)
    assert (config.model.scales, config.training.svm_c) == ((480, 688), 0.5)


@pytest.mark.parametrize("version", [1, 2])
def test_settings_from_a_models_own_file(tmp_path, version):
    config = make_run_config("paper", scales=(480, 688), feature="fc7", svm_c=0.5)
    model, training = to_mapping(config.model), to_mapping(config.training)
    halves = {"config": model, "training": training}
    text = halves if version == 2 else {"config": model | training}
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"format": "some", "classes": ["a"]} | text))
    assert make_run_config(**read_settings(path)) == config


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"null",
        b'"config"',
        b'{"config": 5}',
        b'{"config": {"seed": 1}, "training": 5}',
        b'{"seed": "\xff"}',
    ],
)
def test_files_that_hold_no_settings(tmp_path, content):
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="expected a json of keys and values") as caught:
        read_settings(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["fc_rank", "promising"])
def test_what_is_for_trained_models_is_no_training(name):
    with pytest.raises(ConfigError, match=f"{name} 5: expected 0, it is for trained models"):
        make_run_config(feature="fc7", **{name: 5})
