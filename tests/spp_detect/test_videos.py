"""Videos: each frame's boxes are those of the frame as a photograph."""

import csv

import cv2
import numpy as np
import pytest

from data import DataError, read_photo
from spp_detect import cli
from spp_detect.report.drawing import draw_detections
from spp_detect.report.folder import ReportError
from spp_detect.videos import _Copy, is_video, report_video


@pytest.fixture(scope="module")
def clip(tmp_path_factory, small_set):
    """A clip of nine frames, 200 x 160, five a second, of three photographs in turn."""
    path = tmp_path_factory.mktemp("clip") / "clip.AVI"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (200, 160))
    for i in range(9):
        photo = read_photo(small_set.photographs[i % 3].path)
        writer.write(cv2.cvtColor(cv2.resize(photo, (200, 160)), cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def read_frames(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        whole, frame = capture.read()
        if not whole:
            return frames
        frames.append(frame)


@pytest.mark.parametrize("every", [1, 4])
def test_each_frame_is_detected_in_as_a_photograph(clip, small_detector, tmp_path, every):
    report = report_video(small_detector, clip, tmp_path / "out", -1.2, every=every)
    frames = read_frames(clip)[::every]
    assert report.frames == len(frames) == -(-9 // every)
    expected = []
    for i, frame in enumerate(frames):
        found = small_detector.detect(frame, bgr=True)
        for box, score, label in found[found.scores >= -1.2]:
            number = i * every
            expected.append((number, number / 5, small_detector.classes[label], score, *box))
    assert expected and report.detections == len(expected)
    with (tmp_path / "out" / "detections.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert [row[2] for row in rows] == [row[2] for row in expected]
    numbers = [[float(row[k]) for k in (0, 1, 3, 4, 5, 6, 7)] for row in rows]
    wanted = [[float(row[k]) for k in (0, 1, 3, 4, 5, 6, 7)] for row in expected]
    np.testing.assert_allclose(numbers, wanted, atol=0.011)
    copy = read_frames(tmp_path / "out" / "annotated.mp4")
    assert len(copy) == len(frames)
    drawn = []
    for frame in frames:
        found = small_detector.detect(frame, bgr=True)
        shown = found[found.scores >= -1.2]
        image = draw_detections(frame[..., ::-1].copy(), shown, small_detector.classes)
        drawn.append(np.asarray(image)[..., ::-1])
    for i, shown in enumerate(copy):  # compressed: its own frame is nearest, with its boxes
        errors = [np.abs(one.astype(int) - shown).mean() for one in [*drawn, *frames]]
        assert errors[i] == min(errors)


def test_a_video_that_breaks_off_is_told_and_what_is_read_is_kept(
    clip, small_model, tmp_path, monkeypatch, capsys, caplog
):
    broken = tmp_path / "broken.avi"
    content = clip.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    for path, status in ((broken, 2), (clip, 0)):
        out = tmp_path / path.stem
        words = ["detect", str(small_model), str(path), "--out", str(out)]
        monkeypatch.setattr("sys.argv", ["spp-detect", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == status
    count = len(read_frames(tmp_path / "broken" / "annotated.mp4"))
    assert 0 < count < 9 and f"{count} frames: " in capsys.readouterr().out
    assert f"only {count} of its 9 frames can be read" in caplog.text
    assert len(read_frames(tmp_path / "clip" / "annotated.mp4")) == 9


def test_what_cannot_be_read_or_written_is_refused(clip, small_detector, tmp_path):
    empty = tmp_path / "empty.mp4"
    empty.touch()
    with pytest.raises(DataError, match=r"empty\.mp4: not a video"):
        report_video(small_detector, empty, tmp_path / "out", -1)
    with pytest.raises(DataError, match="200 x 160 pixels; expected at most 100"):
        report_video(small_detector, clip, tmp_path / "out", -1, max_side=100)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ReportError, match="other files"):
        report_video(small_detector, clip, tmp_path, -1)
    assert is_video(clip) and is_video(empty) and not is_video(tmp_path)


def test_a_copy_that_could_not_be_written_is_told(clip, small_detector, tmp_path, monkeypatch):
    """As on a full disk, of which OpenCV says nothing; the boxes are kept."""
    out = tmp_path / "out"
    close = _Copy.close

    def cut_off(copy):
        close(copy)
        copy.path.write_bytes(copy.path.read_bytes()[:500])

    monkeypatch.setattr(_Copy, "close", cut_off)
    with pytest.raises(ReportError, match=r"annotated.mp4: holds 0 frames; expected 9"):
        report_video(small_detector, clip, out, -1.2)
    with (out / "detections.csv").open(newline="") as file:
        assert {row[0] for row in csv.reader(file)} == {"frame", *map(str, range(9))}


def test_boxes_are_kept_frame_by_frame(clip, small_detector, tmp_path, monkeypatch):
    """Whoever is killed in the middle leaves those of the frames before."""
    left = []
    add = _Copy.add

    def look(copy, *frame):
        left.append((copy.path.parent / "detections.csv").read_text().splitlines())
        add(copy, *frame)

    monkeypatch.setattr(_Copy, "add", look)
    report = report_video(small_detector, clip, tmp_path / "out", -1.2)
    assert left[0][0].startswith("frame,seconds,class")
    assert [len(lines) for lines in left] == sorted({len(lines) for lines in left})
    assert len(left[-1]) == 1 + report.detections
