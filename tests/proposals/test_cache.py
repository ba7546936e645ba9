from pathlib import Path

import numpy as np
import pytest

import proposals.cache
from proposals import ProposalCache, ProposalError, ProposalSettings, propose


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """Count the searches that the cache starts."""
    started: list = []

    def count(photo: np.ndarray, settings: ProposalSettings) -> np.ndarray:
        started.append(settings)
        return propose(photo, settings)

    monkeypatch.setattr(proposals.cache, "propose", count)
    return started


@pytest.fixture
def photo() -> np.ndarray:
    photo = np.full((60, 80, 3), 120, np.uint8)
    photo[20:50, 10:60] = (200, 30, 30)
    return photo


def test_a_hit_is_not_searched_again(tmp_path: Path, photo: np.ndarray, calls: list) -> None:
    folder = tmp_path / "deep" / "cache"
    settings = ProposalSettings()
    first = ProposalCache(folder).propose("a.jpg", photo, settings)
    second = ProposalCache(folder).propose("renamed.jpg", photo.copy(), settings)
    assert len(calls) == 1
    assert second.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, propose(photo, settings))
    assert len(list(folder.iterdir())) == 1


def test_changes_miss(
    tmp_path: Path, photo: np.ndarray, calls: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ProposalCache(tmp_path)
    other = photo.copy()
    other[0, 0, 0] += 1
    cache.propose("a", photo)
    cache.propose("a", other)
    cache.propose("a", photo.reshape(80, 60, 3))
    cache.propose("a", photo, ProposalSettings(seed=1))
    cache.propose("a", photo, ProposalSettings(method="edgeboxes"))
    monkeypatch.setattr(proposals.cache, "_read_versions", lambda: "opencv=9")
    cache.propose("a", photo)
    assert len(calls) == 6
    assert len(list(tmp_path.iterdir())) == 6


def test_damaged_file_is_searched_anew(tmp_path: Path, photo: np.ndarray, calls: list) -> None:
    cache = ProposalCache(tmp_path)
    expected = cache.propose("a", photo)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for count, damaged in enumerate((b"", whole[:50], whole[:-30], b"\x00" * len(whole)), 2):
        file.write_bytes(damaged)
        np.testing.assert_array_equal(cache.propose("a", photo), expected)
        assert len(calls) == count
        assert [entry.name for entry in tmp_path.iterdir()] == [file.name]
    cache.propose("a", photo)
    assert len(calls) == 5


def test_file_of_another_photograph_is_not_taken(
    tmp_path: Path, photo: np.ndarray, calls: list
) -> None:
    cache = ProposalCache(tmp_path)
    expected = cache.propose("a", photo)
    (mine,) = tmp_path.iterdir()
    cache.propose("b", np.zeros((9, 9, 3), np.uint8))
    (other,) = set(tmp_path.iterdir()) - {mine}
    mine.write_bytes(other.read_bytes())
    np.testing.assert_array_equal(cache.propose("a", photo), expected)
    assert len(calls) == 3


def test_interrupted_write_leaves_nothing(
    tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(file: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", stop)
    with pytest.raises(ProposalError, match=r"a\.jpg: .*No space left"):
        ProposalCache(tmp_path).propose("a.jpg", photo)
    assert not list(tmp_path.iterdir())


def test_errors_name_the_photograph_or_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ProposalError, match=r"a\.jpg: photograph is"):
        ProposalCache(tmp_path).propose("a.jpg", np.zeros((2, 2), np.uint8))
    (tmp_path / "file").write_text("")
    with pytest.raises(ProposalError, match="file"):
        ProposalCache(tmp_path / "file")
