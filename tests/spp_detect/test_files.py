"""Files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import resource
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from spp_detect.files import (
    remove_leftovers,
    replace_file,
    write_array,
    write_json,
    write_tensors,
    write_text,
)

# Each writes some 36,000 bytes or more.
WRITERS = {
    "a.txt": lambda path: write_text(path, "x" * 36_000),
    "a.json": lambda path: write_json(path, ["x"] * 9000),
    "a.npy": lambda path: write_array(path, np.zeros(9000)),
    "a.safetensors": lambda path: write_tensors(path, {"a": torch.zeros(9000)}),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text(tmp_path):
    write_text(tmp_path / "a.txt", "Straße\n")
    assert (tmp_path / "a.txt").read_bytes() == "Straße\n".encode()


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, math.nan], "a": None})
    text = (tmp_path / "a.json").read_text()
    assert text.endswith("}\n")
    assert "NaN" in text
    read = json.loads(text)
    assert list(read) == ["b", "a"]
    assert math.isnan(read["b"][1])


def test_array(tmp_path):
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    write_array(tmp_path / "a.npy", array)
    read = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, array)


def test_objects_are_not_pickled(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle"):
        write_array(tmp_path / "a.npy", np.array([object()]))
    assert names(tmp_path) == []


def test_tensors(tmp_path):
    values = torch.arange(6.0).reshape(2, 3)
    write_tensors(tmp_path / "a.safetensors", {"a": values.T, "b": values[:, 1]})
    read = load_file(tmp_path / "a.safetensors")
    assert torch.equal(read["a"], values.T)
    assert torch.equal(read["b"], values[:, 1])


@pytest.mark.parametrize("name", WRITERS)
def test_folders_are_made_old_files_replaced_and_nothing_else_is_left(tmp_path, name):
    path = tmp_path / "some" / "where" / name
    WRITERS[name](path)
    whole = path.read_bytes()
    path.write_bytes(b"old")
    WRITERS[name](path)
    assert path.read_bytes() == whole
    assert names(path.parent) == [name]
    assert path.stat().st_mode & 0o777 == 0o644


class WriterError(Exception):
    """What a writer may raise."""


@pytest.mark.parametrize("error", [WriterError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("old", [None, "the old"])
def test_a_failing_writer_leaves_the_old_file(tmp_path, error, old):
    path = tmp_path / "a.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error), replace_file(path) as temporary:
        temporary.write_text("half of the n")
        assert temporary.parent == path.parent
        raise error
    assert names(tmp_path) == (["a.txt"] if old else [])
    if old:
        assert path.read_text() == old


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replace_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".txt"
        assert temporary.name.startswith(".")
    assert path.read_text() == "new"


@contextlib.contextmanager
def limited_file_size(size):
    """The system itself refuses to write on, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_names_the_target(tmp_path, name):
    path = tmp_path / name
    path.write_text("old")
    with pytest.raises(OSError) as caught, limited_file_size(4096):
        WRITERS[name](path)
    message = str(caught.value)
    assert str(path) in message
    assert str(caught.value.filename) == str(path)
    assert "None" not in message
    assert path.read_text() == "old"
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("named", [False, True])
def test_no_space_left(tmp_path, monkeypatch, named):
    def fail(self, *_args, **_kwargs):
        details = (errno.ENOSPC, "No space left on device", *([str(self)] if named else []))
        raise OSError(*details)

    path = tmp_path / "a.json"
    path.write_text("old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match=r"No space left on device: '.*/a\.json'") as caught:
            write_json(path, {"a": 1})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, replace_file(tmp_path / "a.txt"):
        (tmp_path / "source.txt").read_text()
    assert caught.value.filename == str(tmp_path / "source.txt")
    assert names(tmp_path) == []


def test_no_room_for_the_temporary_file(tmp_path, monkeypatch):
    """A disk without inodes, or a folder that may not be written: the target is named, too."""

    def fail(*_args, **_kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / ".a-x1y2.txt"))

    monkeypatch.setattr(tempfile, "mkstemp", fail)
    with pytest.raises(OSError, match="Read-only file system") as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError) as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert names(tmp_path) == ["a.txt"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError, match="run"):
        write_text(tmp_path / "run" / "a.txt", "new")
    assert names(tmp_path) == ["run"]


def test_values_that_json_cannot_hold(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert (tmp_path / "a.json").read_text() == "{}"
    assert names(tmp_path) == ["a.json"]


def test_leftovers_go_and_what_else_is_hidden_stays(tmp_path):
    (tmp_path / "work" / "maps").mkdir(parents=True)
    for name in (".model-x1y2.safetensors", "work/maps/.000001-q.npy", ".gitignore", "model-1"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    files = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert files == [".gitignore", "model-1"]
