import base64
import io
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as st

from proposals import ProposalError, load_boxes, save_boxes


def cells(items: list, row: bool) -> np.ndarray:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array[None, :] if row else array[:, None]


def save_mat(path: Path, names: list, boxes: list, **more: object) -> None:
    images = cells([np.array([name]) for name in names], row=False)
    scipy.io.savemat(path, {"images": images, "boxes": cells(boxes, row=True), **more})


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "boxes.npz"
    boxes = [np.array([[0, 1, 2, 3.5], [4, 5, 9, 8]]), np.zeros((0, 4)), [[1, 1, 2, 2]]]
    save_boxes(path, ["b", "täl/ä.jpg", "a"], boxes, method="opencv-fast")
    found = load_boxes(path)
    assert found.names == ("b", "täl/ä.jpg", "a")
    assert found.method == "opencv-fast"
    assert len(found) == 3
    for expected, (name, rows) in zip(boxes, found, strict=True):
        assert rows.dtype == np.float32
        assert rows.shape == (len(expected), 4)
        np.testing.assert_array_equal(rows, np.asarray(expected).reshape(-1, 4))
        np.testing.assert_array_equal(found.find(name), rows)
    assert "a" in found
    assert "c" not in found
    with pytest.raises(ProposalError, match="'c'"):
        found.find("c")
    assert [entry.name for entry in tmp_path.iterdir()] == ["boxes.npz"]


def test_no_photographs(tmp_path: Path) -> None:
    save_boxes(tmp_path / "none.npz", [], [])
    assert len(load_boxes(tmp_path / "none.npz")) == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=6))
def test_any_counts_round_trip(counts: list[int]) -> None:
    generator = np.random.default_rng(0)
    boxes = []
    for count in counts:
        corner = generator.random((count, 2), dtype=np.float32)
        boxes.append(np.hstack([corner, corner + 1]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npz"
        save_boxes(path, [str(i) for i in range(len(counts))], boxes)
        for expected, (_, rows) in zip(boxes, load_boxes(path), strict=True):
            np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize(
    ("names", "boxes"),
    [
        (["a"], []),
        (["a", "a"], [[], []]),
        ([1], [[]]),
        (["a\0"], [[]]),
        (["a"], [[[0, 0, 1]]]),
        (["a"], [[[0, 0, 1, np.inf]]]),
        (["a"], [[[0, 0, 0, 1]]]),
        (["a"], [["box"]]),
    ],
)
def test_bad_boxes_are_not_saved(tmp_path: Path, names: list, boxes: list) -> None:
    with pytest.raises(ProposalError, match=r"x\.npz"):
        save_boxes(tmp_path / "x.npz", names, boxes)
    assert not list(tmp_path.iterdir())


def test_wrong_suffix_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProposalError, match="npz"):
        save_boxes(tmp_path / "x.txt", [], [])
    with pytest.raises(ProposalError, match=r"npz or \.mat"):
        load_boxes(tmp_path / "x.txt")
    with pytest.raises(ProposalError, match="no such file"):
        load_boxes(tmp_path / "x.npz")
    with pytest.raises(ProposalError, match="cannot be written"):
        save_boxes(tmp_path / "no folder" / "x.npz", [], [])


def test_interrupted_write_keeps_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    save_boxes(path, ["a"], [[[0, 0, 1, 1]]])

    def stop(file: io.BufferedWriter, **arrays: object) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(KeyboardInterrupt):
        save_boxes(path, ["b"], [[[0, 0, 2, 2]]])
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]
    assert load_boxes(path).names == ("a",)


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_boxes(path, ["a", "b"], [[[0, 0, 1, 1]], [[0, 0, 2, 2]]])
    whole = path.read_bytes()
    flipped = bytearray(whole)
    # The bytes of the number 2.0: the archive's checksum must notice one flipped bit.
    flipped[whole.index(struct.pack("<f", 2.0)) + 3] ^= 1
    for damaged in (b"", b"PK", whole[: len(whole) // 2], bytes(flipped), b"\x00" * 100):
        path.write_bytes(damaged)
        with pytest.raises(ProposalError, match=r"x\.npz"):
            load_boxes(path)


@pytest.mark.parametrize(
    "change",
    [
        {"version": np.int64(2)},
        {"offsets": np.array([0, 2, 1])},
        {"offsets": np.array([0, 1])},
        {"offsets": np.array([1, 1, 2])},
        {"offsets": np.array([0.0, 1.0, 2.0])},
        {"boxes": np.zeros((2, 5), np.float32)},
        {"boxes": np.full((2, 4), np.nan, np.float32)},
        {"boxes": np.zeros((2, 4), np.float32)},
        {"names": np.array([1, 2])},
        {"names": np.array(["a", "a"])},
        {"names": np.array(["a", "b"], dtype=object)},
        {"names": None},
    ],
)
def test_foreign_npz(tmp_path: Path, change: dict) -> None:
    content = {
        "version": np.int64(1),
        "method": np.str_(""),
        "names": np.array(["a", "b"]),
        "boxes": np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.float32),
        "offsets": np.array([0, 1, 2]),
    }
    path = tmp_path / "x.npz"
    np.savez(path, **content)
    assert load_boxes(path).names == ("a", "b")
    content.update(change)
    np.savez(path, **{key: value for key, value in content.items() if value is not None})
    with pytest.raises(ProposalError, match=r"x\.npz"):
        load_boxes(path)


def test_file_holds_no_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    save_boxes(path, ["a"], [[[0, 0, 1, 1]]])
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            assert b"'descr': '|O'" not in archive.read(entry)


@pytest.mark.parametrize("dtype", [np.uint16, np.float64])
def test_mat_conversion_by_hand(tmp_path: Path, dtype: type) -> None:
    # y1 x1 y2 x2, 1-based, inclusive: rows 1 to 30 and columns 5 to 20 of a photograph.
    path = tmp_path / "voc.mat"
    save_mat(path, ["000005", "000007"], [np.array([[1, 5, 30, 20]], dtype), np.zeros((0, 4))])
    found = load_boxes(path)
    assert found.names == ("000005", "000007")
    np.testing.assert_array_equal(found.find("000005"), [[4, 0, 20, 30]])
    assert found.find("000005").dtype == np.float32
    assert found.find("000007").shape == (0, 4)


def test_mat_of_one_photograph(tmp_path: Path) -> None:
    path = tmp_path / "one.mat"
    save_mat(path, ["a"], [np.array([[1, 1, 1, 1], [2, 3, 4, 5]])])
    np.testing.assert_array_equal(load_boxes(path).find("a"), [[0, 0, 1, 1], [2, 1, 5, 4]])


def test_bad_mats(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    good = np.array([[1.0, 1, 2, 2]])
    for names, boxes in (
        (["a"], [good, good]),
        (["a"], [good * np.nan]),
        (["a"], [good[:, :3]]),
        (["a"], [np.array([[5.0, 1, 2, 2]])]),
        (["a"], [np.array(["text"])]),
        (["a", "a"], [good, good]),
        ([3, 4], [good, good]),
    ):
        save_mat(path, names, boxes)
        with pytest.raises(ProposalError, match=r"x\.mat"):
            load_boxes(path)
    scipy.io.savemat(path, {"boxes": cells([good], row=True)})
    with pytest.raises(ProposalError, match="images missing"):
        load_boxes(path)
    scipy.io.savemat(path, {"boxes": good, "images": "a"})
    with pytest.raises(ProposalError, match="cell array"):
        load_boxes(path)


def test_damaged_mats(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    save_mat(path, ["a"], [np.ones((50, 4))])
    whole = path.read_bytes()
    for damaged in (b"", b"MATLAB", whole[:200], whole[: len(whole) // 2], b"\xff" * 500):
        path.write_bytes(damaged)
        with pytest.raises(ProposalError, match=r"x\.mat"):
            load_boxes(path)


def test_mat_of_v73_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "x.mat"
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    path.write_bytes(header.ljust(512, b"\x00") + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ProposalError, match=r"v7\.3.*-v7") as caught:
        load_boxes(path)
    assert "\n" not in str(caught.value)


# Damaged by fuzzing so that SciPy's reader (1.17) ends its process by a signal.
DEADLY = (
    "TUFUTEFCIDUuMCBNQVQtZmlsIG9uOiBGcmkgTm92IDI3aXgsIENyZWF0ZWQgb246IEZyaSBOb3YgMjcgMDc6NDA6MD"
    "AgMjAyNgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABSU0OAAAAiAAA"
    "AAYAAAAIAAAAAQAAAAAAAAAFAAAACAAAAAEAAAABAAAAAQAAAAUAAABib3hlcwAAAA4AAABQAAAABgAAAAgAAAAGAA"
    "AAAAAAAAUAAAAIAAAAAQAAAAQAAAABAAAAAAAAAAAAAAAgAAAAAAAAAAAACEAAAAAAAAAAQAAAAAAAACJAAAAAAAAA"
    "IkAOAAAAaAAAAAYAAAAIAAAAAQAAAAAAAAAFAAAACAAAAAEAAAABAAAAAQAAAAYAAABpbWFnZXMAAA4AAAAwAAAABg"
    "AAAAgAAAAEAAAACAAAAAUAAAAJAAAAAQAAAAEAAAABAAAAAAAAABAAAQBhAAAA"
)


def test_a_file_that_ends_its_reader_ends_nothing_else(tmp_path):
    path = tmp_path / "deadly.mat"
    path.write_bytes(base64.b64decode(DEADLY))
    with pytest.raises(ProposalError, match=r"deadly\.mat: "):
        load_boxes(path)
