"""Who is told what of a long step."""

import doctest

import pytest

from spp_detect import progress
from spp_detect.progress import report_to, show, silence, track


def work() -> None:
    """Two steps: one whose length is known, one whose is not."""
    assert list(track(range(3), "things")) == [0, 1, 2]
    assert list(track(iter("ab"), "letters")) == ["a", "b"]


TOLD = [("things", done, 3) for done in range(4)] + [("letters", done, None) for done in range(3)]


def test_python_hears_nothing_unless_it_asks(capfd):
    work()
    assert capfd.readouterr() == ("", "")


def test_show_passes_everything_on_and_tells_the_end(capsys):
    with show():
        work()
    errors = capsys.readouterr().err
    assert "things: 3 done" in errors
    assert "letters: 2 done" in errors


def test_show_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with show():
        work()
    errors = capsys.readouterr().err
    assert "things" in errors
    assert "3/3" in errors


def test_a_listener_hears_every_item(capfd):
    told = []
    with report_to(lambda *event: told.append(event)):
        work()
    work()
    assert told == TOLD
    assert capfd.readouterr() == ("", "")


def test_the_total_can_be_given():
    told = []
    with report_to(lambda *event: told.append(event)):
        list(track(iter("ab"), "letters", 2))
    assert told[-1] == ("letters", 2, 2)


def test_the_innermost_wins_until_its_end(capfd):
    told = []
    with show(), report_to(lambda *event: told.append(event)):
        with silence():
            work()
        assert told == []
        with pytest.raises(KeyError), silence():
            raise KeyError
        work()
    assert told == TOLD
    assert capfd.readouterr() == ("", "")


def test_what_a_listener_raises_ends_the_step():
    def stop(step, done, total):
        if done == 2:
            raise KeyboardInterrupt

    seen = []
    with report_to(stop), pytest.raises(KeyboardInterrupt):
        seen.extend(track(range(5), "things"))
    assert list(track(range(5), "things")) == [0, 1, 2, 3, 4]


def test_training_tells_its_steps(make_run, small_set, small_config, tmp_path, capfd):
    told = []
    with report_to(lambda *event: told.append(event)):
        make_run(tmp_path / "run", small_set, small_config()).train()
    photographs = len(small_set)
    assert ("hard negatives", photographs, photographs) in told
    assert capfd.readouterr() == ("", "")


def test_the_documented_example():
    failed, tried = doctest.testmod(progress)
    assert tried >= 2
    assert not failed
