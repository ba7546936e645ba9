from dataclasses import replace
from pathlib import Path

import pytest

from proposals import METHODS, ProposalError, ProposalSettings


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "selective"},
        {"method": None},
        {"max_windows": 0},
        {"max_windows": 2.5},
        {"max_windows": True},
        {"min_side": -1},
        {"min_side": float("nan")},
        {"min_side": float("inf")},
        {"min_side": "10"},
        {"seed": -1},
        {"seed": 1.0},
        {"edge_model": Path("model.yml.gz")},
        {"method": "edgeboxes", "edge_model": Path("there/is/no/model.yml.gz")},
    ],
)
def test_wrong_settings_are_one_line(wrong: dict) -> None:
    with pytest.raises(ProposalError) as caught:
        ProposalSettings(**wrong)
    assert "\n" not in str(caught.value)
    assert next(iter(wrong)) in str(caught.value) or "edge_model" in str(caught.value)


def test_key_changes_with_everything_that_changes_boxes() -> None:
    base = ProposalSettings()
    others = [replace(base, method=method) for method in METHODS[1:]]
    others += [replace(base, max_windows=5), replace(base, min_side=3), replace(base, seed=1)]
    keys = [settings.key() for settings in (base, *others)]
    assert len(set(keys)) == len(keys)
    assert ProposalSettings(min_side=10).key() == base.key()


def test_seed_does_not_change_the_key_of_edgeboxes() -> None:
    assert (
        ProposalSettings(method="edgeboxes", seed=1).key()
        == ProposalSettings(method="edgeboxes", seed=2).key()
    )


def test_key_holds_the_content_of_the_edge_model(tmp_path: Path) -> None:
    first, second, moved = (tmp_path / name for name in "abc")
    first.write_text("one")
    second.write_text("two")
    moved.write_text("one")
    keys = [
        ProposalSettings(method="edgeboxes", edge_model=path).key()
        for path in (first, second, moved)
    ]
    assert keys[0] == keys[2] != keys[1]
    assert str(tmp_path) not in keys[0]
