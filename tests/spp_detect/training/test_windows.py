"""The one table of windows: its rows, its keys, its hash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data import LabelledSet, Labels, Photograph
from spp_detect.mirror import mirror_boxes
from spp_detect.training.windows import WindowTable, make_keys, split_keys

BOXES = (
    [[1, 2, 30, 40], [50, 5, 90, 60], [3, 3, 9, 9]],  # the second is difficult
    [],
    [[10, 0, 20, 70]],
)
PROPOSED = (
    [[0, 0, 10, 10], [1, 2, 30, 40], [0, 0, 10, 10], [5, 5, 70, 60]],
    [[2, 2, 8, 9]],
    [],
)


def as_windows(values):
    return np.array(values, np.float32).reshape(-1, 4)


@pytest.fixture
def dataset():
    photographs = []
    for i, boxes in enumerate(BOXES):
        difficult = np.array([k == 1 for k in range(len(boxes))], bool)
        labels = Labels(as_windows(boxes), np.zeros(len(boxes), np.int64), difficult)
        photographs.append(Photograph(str(i), Path(f"{i}.png"), 100 + i, 80, labels))
    return LabelledSet(Path("set"), "train", ("thing",), tuple(photographs))


@pytest.fixture
def table(dataset):
    return WindowTable(dataset, [as_windows(one) for one in PROPOSED])


def test_rows_are_the_easy_boxes_then_the_proposals(table):
    assert len(table) == 3
    first = [[1, 2, 30, 40], [3, 3, 9, 9], *PROPOSED[0]]
    assert table.find(0).tolist() == first
    assert table.find(0).dtype == np.float32
    assert table.find(1).tolist() == PROPOSED[1]
    assert table.find(2).tolist() == BOXES[2]
    assert [table.find_rows(i).tolist() for i in range(3)] == [[0, 1, 2, 3, 4, 5], [0], [0]]
    assert [table.find_boxes(i).tolist() for i in range(3)] == [[0, 1], [], [0]]
    assert [table.find_proposals(i).tolist() for i in range(3)] == [[2, 3, 4, 5], [0], []]


def test_a_proposal_that_is_a_box_or_another_is_no_distinct_window(table):
    first, number = table.find_distinct(0)
    assert first.tolist() == [0, 1, 2, 5]
    assert number.tolist() == [0, 1, 2, 0, 2, 3]


def test_mirrored_twice_windows_are_where_they_were(table):
    mirrored = table.find(0, mirrored=True)
    assert mirrored[0].tolist() == [70, 2, 99, 40]  # of a photograph 100 wide
    assert (mirror_boxes(mirrored, 100) == table.find(0)).all()
    assert table.find(1, mirrored=True).tolist() == [[93, 2, 99, 9]]  # 101 wide


def test_mirrored_windows_cut_the_mirrored_pixels():
    photo = np.arange(5 * 9).reshape(5, 9)
    windows = np.array([[0, 1, 3, 4], [2, 0, 9, 5], [4, 2, 5, 3]], np.float32)
    for window, mirrored in zip(windows, mirror_boxes(windows, 9), strict=True):
        x1, y1, x2, y2 = window.astype(int)
        u1, v1, u2, v2 = mirrored.astype(int)
        assert (photo[:, ::-1][v1:v2, u1:u2] == photo[y1:y2, x1:x2][:, ::-1]).all()


def test_keys_lead_back_to_photograph_and_rows():
    rows = {0: [0, 7], 3: [2], 5010: [0, 1, 2999, (1 << 24) - 1]}
    keys = np.concatenate([make_keys(i, np.array(own, np.int64)) for i, own in rows.items()])
    assert keys.dtype == np.int64
    assert (np.diff(keys) > 0).all()
    found = split_keys(keys)
    assert {i: own.tolist() for i, own in found} == rows
    assert [i for i, _ in found] == list(rows)
    assert split_keys(keys[2:3])[0][1].tolist() == [2]


def test_no_two_windows_of_a_set_have_one_key():
    keys = [make_keys(i, np.arange(50)) for i in range(20)]
    assert len(np.unique(np.concatenate(keys))) == 20 * 50


def test_the_hash_is_of_every_window(dataset, table):
    again = WindowTable(dataset, [as_windows(one) for one in PROPOSED])
    assert again.sha256 == table.sha256
    hashes = {table.sha256}
    changes = [(i, k) for i, own in enumerate(PROPOSED) for k in range(len(own))]
    for i, k in changes:
        proposed = [as_windows(one) for one in PROPOSED]
        proposed[i][k, 3] += 0.5
        other = WindowTable(dataset, proposed)
        hashes.add(other.sha256)
        same = [other.hash_photograph(n) == table.hash_photograph(n) for n in range(3)]
        assert same == [n != i for n in range(3)]
    # Two of the first photograph's are equal, but the place of a window counts as well.
    assert len(hashes) == 1 + len(changes)


def test_the_hash_tells_whose_a_window_is(dataset, table):
    moved = WindowTable(dataset, [as_windows(PROPOSED[0][:-1]), *map(as_windows, PROPOSED[1:])])
    assert moved.sha256 != table.sha256
    boundary = [as_windows(PROPOSED[0]), as_windows([]), as_windows(PROPOSED[1])]
    photographs = dataset.photographs
    none = Labels(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    bare = LabelledSet(
        dataset.root,
        "train",
        dataset.classes,
        tuple(Photograph(p.name, p.path, p.width, p.height, none) for p in photographs),
    )
    other = [as_windows(PROPOSED[0]), as_windows(PROPOSED[1]), as_windows([])]
    assert WindowTable(bare, boundary).sha256 != WindowTable(bare, other).sha256


def test_as_many_lists_as_photographs_are_needed(dataset):
    with pytest.raises(ValueError, match="windows of 2 photographs: expected 3"):
        WindowTable(dataset, [as_windows(one) for one in PROPOSED[:2]])
