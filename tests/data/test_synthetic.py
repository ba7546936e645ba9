"""The synthetic set: the same bytes again, boxes tight, readable as any VOC folder."""

import cv2
import numpy as np
import pytest

from data import (
    SYNTHETIC_CLASSES,
    DataError,
    check_photographs,
    make_synthetic_set,
    open_dataset,
    read_photo,
    synthetic,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_synthetic_set(tmp_path_factory.mktemp("syn") / "set", train=20, val=5, test=10)


def bytes_of(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def scenes(count):
    for i in range(count):
        rng = np.random.default_rng([5, i])
        yield synthetic._draw_scene(rng, SYNTHETIC_CLASSES[i % 5])


def test_reads_as_a_voc_folder(made):
    counts = {"train": 20, "val": 5, "test": 10, "trainval": 25}
    for split, count in counts.items():
        dataset = open_dataset(made, split, classes=SYNTHETIC_CLASSES)
        assert len(dataset) == count
        assert open_dataset(made, split).classes == tuple(sorted(SYNTHETIC_CLASSES))
        easy = [p.labels.classes[~p.labels.difficult] for p in dataset]
        assert set(np.concatenate(easy)) == set(range(5))
        assert all(1 <= len(p.labels) <= 4 and len(e) for p, e in zip(dataset, easy, strict=True))
        assert check_photographs(dataset) == []
    shapes = {read_photo(p.path).shape[:2] for p in open_dataset(made, "trainval")}
    assert len(shapes) > 10 and any(h > w for h, w in shapes) and any(h < w for h, w in shapes)
    names = [{p.name for p in open_dataset(made, split)} for split in ("train", "val", "test")]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


def test_same_seed_same_bytes_other_seed_others(made, tmp_path):
    again = make_synthetic_set(tmp_path / "again", train=20, val=5, test=10)
    assert bytes_of(again) == bytes_of(made)
    other = make_synthetic_set(tmp_path / "other", train=2, val=1, test=1, seed=1)
    name = "JPEGImages/train_00000.jpg"
    assert (other / name).read_bytes() != (made / name).read_bytes()


def test_a_photograph_depends_on_its_own_number_alone(made, tmp_path):
    small = make_synthetic_set(tmp_path / "deep" / "small", train=3, val=2, test=1)
    for folder in ("JPEGImages", "Annotations"):
        for path in (small / folder).iterdir():
            assert path.read_bytes() == (made / folder / path.name).read_bytes()


def test_photographs_of_different_splits_differ(made):
    photos = [p.read_bytes() for p in (made / "JPEGImages").iterdir()]
    assert len(set(photos)) == len(photos) == 35


def test_boxes_are_tight_around_what_is_in_sight():
    seen = 0
    for pixels, objects in scenes(40):
        for drawn in objects:
            x, y, width, height = cv2.boundingRect(drawn.visible.astype(np.uint8))
            assert drawn.box == (x, y, x + width, y + height)
            assert drawn.visible.shape == pixels.shape[:2]
            assert 0 < drawn.share <= 1.001
            seen += 1
        total = sum(drawn.visible.astype(int) for drawn in objects)
        assert total.max() == 1  # no pixel shows two objects
    assert seen > 60


def test_masks_lie_where_the_shapes_were_painted():
    """Against the pixels themselves: inside and just outside of an object the colours differ."""
    contrasts = []
    for pixels, objects in scenes(40):
        for drawn in objects:
            mask = drawn.visible.astype(np.uint8)
            around = (cv2.dilate(mask, np.ones((9, 9))) - cv2.dilate(mask, np.ones((5, 5)))) > 0
            inside = cv2.erode(mask, np.ones((5, 5))) > 0
            if inside.any() and around.any():
                colours = pixels[inside].mean(0) - pixels[around].mean(0)
                contrasts.append(np.linalg.norm(colours))
    assert np.median(contrasts) > 80 and np.mean(np.array(contrasts) > 30) > 0.95


def test_every_kind_of_trouble_occurs():
    drawn = [d for _, objects in scenes(150) for d in objects]
    sides = np.array([max(d.box[2] - d.box[0], d.box[3] - d.box[1]) for d in drawn])
    assert np.mean((sides >= 40) & (sides <= 160)) > 0.75
    assert 0.02 < np.mean([d.difficult for d in drawn]) < 0.2
    assert 0.05 < np.mean([d.truncated for d in drawn]) < 0.4
    assert np.mean([d.share < 0.98 and not d.truncated for d in drawn]) > 0.1  # hidden in part
    assert any(d.share < 0.4 for d in drawn) and any(side < 28 for side in sides)


def test_colour_does_not_tell_the_class():
    colours = {name: [] for name in SYNTHETIC_CLASSES}
    for pixels, objects in scenes(150):
        for drawn in objects:
            colours[drawn.class_name].append(pixels[drawn.visible].mean(0))
    means = np.array([np.mean(c, 0) for c in colours.values()])
    spread = np.mean([np.std(c, 0) for c in colours.values()])
    assert np.abs(means - means.mean(0)).max() < 0.5 * spread


def test_a_made_set_is_kept_and_another_folder_refused(made, tmp_path):
    before = bytes_of(made)
    times = [p.stat().st_mtime_ns for p in sorted(made.rglob("*"))]
    assert make_synthetic_set(str(made), train=20, val=5, test=10) == made
    assert times == [p.stat().st_mtime_ns for p in sorted(made.rglob("*"))]
    with pytest.raises(DataError, match="exists"):
        make_synthetic_set(made, train=21, val=5, test=10)
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="exists"):
        make_synthetic_set(tmp_path, train=1, val=1, test=1)
    with pytest.raises(DataError, match="exists"):
        make_synthetic_set(tmp_path / "mine.txt", train=1, val=1, test=1)
    with pytest.raises(DataError, match="cannot be written"):
        make_synthetic_set(tmp_path / "mine.txt" / "set", train=1, val=1, test=1)
    assert bytes_of(made) == before and list(bytes_of(tmp_path).values()) == [b"keep"]


@pytest.mark.parametrize("bad", [{"train": 0}, {"val": -1}, {"test": 0}, {"seed": -1}])
def test_bad_counts(tmp_path, bad):
    with pytest.raises(DataError, match=f"{next(iter(bad))} is"):
        make_synthetic_set(tmp_path / "set", **bad)
    assert not any(tmp_path.iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "_write_annotation", fail)
    with pytest.raises(KeyboardInterrupt):
        make_synthetic_set(tmp_path / "set", train=1, val=1, test=1)
    assert list(tmp_path.iterdir()) == []
