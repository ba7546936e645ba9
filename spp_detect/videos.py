"""Detection in the frames of a video."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from data import DEFAULT_MAX_SIDE, DataError
from eval import Detections
from spp_detect.detector import PhotoDetector
from spp_detect.prefetch import WindowSource, search_windows, work_ahead
from spp_detect.progress import track
from spp_detect.report.drawing import draw_detections
from spp_detect.report.exports import round_box
from spp_detect.report.folder import ReportError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")
BOXES, ANNOTATED = "detections.csv", "annotated.mp4"
HEADING = ("frame", "seconds", "class", "score", "x1", "y1", "x2", "y2")
CODEC = "vp09"  # VP9: what browsers play and OpenCV writes
LEAST_READ = 0.95  # of the frames; some files only guess how many they have
FRAMES_A_SECOND = 25.0  # of a video that does not say

Photo = NDArray[np.uint8]

logger = logging.getLogger(__name__)


class VideoReport(NamedTuple):
    """What was found in a video.

    Attributes
    ----------
    frames : int
        In which was looked.
    detections : int
        In all of them.
    broken_off : bool
        Whether clearly fewer frames could be read than the file says it has.
    """

    frames: int
    detections: int
    broken_off: bool


def is_video(path: Path) -> bool:
    """Whether a path is a file whose suffix, in any case, is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file()


def report_video(
    detector: PhotoDetector,
    path: Path,
    out: Path,
    min_score: float,
    max_side: int = DEFAULT_MAX_SIDE,
    every: int = 1,
) -> VideoReport:
    """Detect in a video's frames and write what was found, and a copy with the boxes drawn.

    Parameters
    ----------
    detector : PhotoDetector
        A loaded model, or several together.
    path : Path
        Any video that OpenCV reads.
    out : Path
        A new folder: gets detections.csv, a row a box with its frame's number from 0 and its time,
        and annotated.mp4.
    min_score : float
        Least score of a detection.
    max_side : int
        Largest side of a frame in pixels.
    every : int
        Look at every frame, at every second one, and so on; the copy has those alone.

    Raises
    ------
    DataError
        For a file that is no video, or of larger frames.
    ReportError
        For an `out` that holds anything, or where the copy cannot be written; the boxes of all
        frames are in the csv by then.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ReportError(f"{out}: holds other files; expected a new folder")
    capture = _open(path, max_side)
    rate = capture.get(cv2.CAP_PROP_FPS) or FRAMES_A_SECOND
    count = -(-max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) // every)
    source = search_windows(detector.proposal_settings)
    detections = frames = 0
    out.mkdir(parents=True, exist_ok=True)
    copy = _Copy(out / ANNOTATED, rate / every)
    prepare = partial(_propose, source, path)
    prepared = work_ahead(prepare, islice(_read_frames(capture), 0, None, every))
    try:
        with (out / BOXES).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(HEADING)
            for frame, windows in track(prepared, "frames", count):
                found = detector.detect(frame, windows)
                shown = found[found.scores >= min_score]
                number = frames * every
                rows.writerows(_describe(number, number / rate, shown, detector.classes))
                file.flush()  # whoever is killed leaves the boxes so far
                copy.add(frame, shown, detector.classes)
                detections += len(shown)
                frames += 1
    finally:
        copy.close()
        capture.release()
        if not frames:  # nothing is left that would stand in the way of another try
            for place in (copy.path, out / BOXES):
                place.unlink(missing_ok=True)
            out.rmdir()
    if not frames:
        raise DataError(f"{path}: no frame can be read; expected a video")
    copy.check(frames)
    if frames < count:
        logger.warning("%s: only %d of its %d frames can be read", path, frames, count)
    return VideoReport(frames, detections, frames < LEAST_READ * count)


def _open(path: Path, max_side: int) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise DataError(f"{path}: not a video that OpenCV reads; expected one")
    sides = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
    if max(sides) > max_side:
        width, height = map(int, sides)
        raise DataError(
            f"{path}: frames of {width} x {height} pixels; expected at most {max_side} a side "
            "(--max-side)"
        )
    return capture


def _read_frames(capture: cv2.VideoCapture) -> Iterator[Photo]:
    """Read frame after frame as RGB."""
    while True:
        whole, frame = capture.read()
        if not whole:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _propose(source: WindowSource, path: Path, frame: Photo) -> tuple[Photo, NDArray[np.float32]]:
    return frame, source(path, frame)


def _describe(
    number: int, seconds: float, found: Detections, classes: tuple[str, ...]
) -> list[tuple[object, ...]]:
    return [
        (number, f"{seconds:.3f}", classes[label], round(score, 5), *round_box(box))
        for box, score, label in found
    ]


class _Copy:
    """A video that is written frame by frame, begun with the first one's size."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self.rate = rate
        self.writer: cv2.VideoWriter | None = None

    def add(self, frame: Photo, found: Detections, classes: tuple[str, ...]) -> None:
        """Draw the boxes on a frame and write it."""
        if self.writer is None:
            codec = cv2.VideoWriter.fourcc(*CODEC)
            size = frame.shape[1], frame.shape[0]
            self.writer = cv2.VideoWriter(str(self.path), codec, self.rate, size)
            if not self.writer.isOpened():
                raise ReportError(f"{self.path}: OpenCV cannot write this video here")
        drawn = np.asarray(draw_detections(frame, found, classes))
        self.writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.release()

    def check(self, frames: int) -> None:
        """Read how many frames it has: OpenCV does not tell where it could not write some."""
        capture = cv2.VideoCapture(str(self.path))
        held = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
        capture.release()
        if held < LEAST_READ * frames:
            told = f"holds {held} frames; expected {frames}, is the disk full?"
            raise ReportError(f"{self.path}: {told} {BOXES} has all boxes")
