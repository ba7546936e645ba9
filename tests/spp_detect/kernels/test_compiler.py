"""What Triton needs to compile is looked for where it looks."""

import logging
import sysconfig

import pytest

from spp_detect.kernels import compiler
from spp_detect.kernels.compiler import can_compile


@pytest.fixture(autouse=True)
def anew():
    can_compile.cache_clear()
    yield
    can_compile.cache_clear()


@pytest.fixture
def all_there(monkeypatch, tmp_path):
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(compiler, "find_spec", lambda name: object())
    monkeypatch.setattr(compiler, "which", lambda name: "/bin/gcc" if name == "gcc" else None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def test_with_all_that_it_needs(all_there, caplog):
    assert can_compile() and not caplog.messages


def test_a_compiler_may_be_named(all_there, monkeypatch):
    monkeypatch.setattr(compiler, "which", lambda name: None)
    monkeypatch.setenv("CC", "tcc")
    assert can_compile()


@pytest.mark.parametrize("lacking", ["triton", "compiler", "headers"])
def test_what_is_lacking_is_said_once(all_there, monkeypatch, caplog, lacking):
    words = {"triton": "package triton", "compiler": "C compiler", "headers": "Python's headers"}
    if lacking == "triton":
        monkeypatch.setattr(compiler, "find_spec", lambda name: None)
    elif lacking == "compiler":
        monkeypatch.setattr(compiler, "which", lambda name: "/bin/cc" if name == "cc" else None)
    else:
        (all_there / "Python.h").unlink()
    with caplog.at_level(logging.WARNING):
        assert not can_compile() and not can_compile()
    (told,) = caplog.messages
    assert words[lacking] in told
