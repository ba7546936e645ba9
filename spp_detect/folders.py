"""What is done with a whole folder of photographs: windows proposed, objects detected."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from data import (
    DEFAULT_MAX_SIDE,
    DataError,
    find_others,
    find_photographs,
    is_labelled,
    open_dataset,
    photo_size,
)
from data.faults import LEFT_OUT
from eval import Detections
from proposals import ProposalError, ProposalSettings, Recall, measure_recall, save_boxes
from spp_detect.detector import PhotoDetector
from spp_detect.files import write_json
from spp_detect.lock import lock_folder
from spp_detect.prefetch import prepare_photos, search_windows
from spp_detect.progress import track
from spp_detect.provenance import find_commit, find_version, record_run
from spp_detect.report.exports import write_line
from spp_detect.report.folder import FolderReport, ReportError, leave_out_reports
from spp_detect.report.journal import NAME as JOURNAL
from spp_detect.report.journal import Journal, find_stamp
from spp_detect.report.names import make_readable, name_below
from spp_detect.threads import get_threads

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_SAVES = 30.0


def report_folder(
    detector: PhotoDetector,
    folder: Path,
    out: Path,
    min_score: float,
    max_side: int = DEFAULT_MAX_SIDE,
    *,
    exports: Sequence[str] = (),
    settings: dict[str, str] | None = None,
    resume: bool = False,
) -> FolderReport:
    """Detect on a folder and write what was found; what is done is saved along the way.

    Parameters
    ----------
    detector : PhotoDetector
        A loaded model, or several together.
    folder : Path
        Photographs, in folders of any depth, or a single one.
    out : Path
        Gets detections.json (COCO results), detections.csv, photographs.csv, index.html with its
        pictures, and journal.jsonl for `resume`; a new folder, or that of an earlier run. Results
        below `folder` are not detected in.
    min_score : float
        Least score of a detection.
    max_side : int
        Largest side of a photograph in pixels.
    exports : sequence of str
        Names of what is written beside, as `report.exports.EXPORTS` has them.
    settings : dict of str to str, optional
        What else the page should say of how it was made.
    resume : bool
        Take what an earlier, interrupted run found in photographs that have not changed since.

    Returns
    -------
    FolderReport
        What was written; each photograph that could not be read was logged.

    Raises
    ------
    DataError
        For a folder without photographs.
    ReportError
        For an `out` that holds other files, or with `resume` the results of another model.
    """
    found_there = find_photographs(folder)
    report = FolderReport(folder, out, detector.classes, min_score, exports)
    report.settings |= _describe(detector) | (settings or {}) | {"least score": f"{min_score:g}"}
    paths = leave_out_reports(found_there, folder)
    _tell_passed_over(folder, len(found_there) - len(paths))
    with lock_folder(out):
        journal = _open_journal(detector, out, resume)
        every = _detect_missing(detector, journal, paths, folder, max_side)
        try:
            _collect(report, detector, track(every, "detection", len(paths)), max_side)
        except BaseException:
            report.save()
            raise
        report.finish()
    return report


def _collect(
    report: FolderReport,
    detector: PhotoDetector,
    every: Iterable[tuple[Path, Detections | DataError]],
    max_side: int,
) -> None:
    """Take what is found in each photograph, and save now and then."""
    begun = saved = time.monotonic()
    for path, found in every:
        try:
            if isinstance(found, DataError):
                raise found
            shown = found[found.scores >= report.least_score]
            report.add(path, shown, max_side, _find_probabilities(detector, shown))
        except DataError as error:
            report.skip(path, error)
        _tell_time(report, begun)
        if time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
            report.save()
            saved = time.monotonic()


def _open_journal(detector: PhotoDetector, out: Path, resume: bool) -> Journal:
    """Open the journal of a folder of results; ReportError where it cannot be gone on with."""
    journal = Journal(out / JOURNAL, detector.identify())
    if not resume:
        journal.begin()
        return journal
    problem = journal.restore()
    if problem is not None:
        raise ReportError(f"{out}: {problem}; expected the same, or begin without --resume")
    return journal


def _detect_missing(
    detector: PhotoDetector, journal: Journal, paths: list[Path], folder: Path, max_side: int
) -> Iterator[tuple[Path, Detections | DataError]]:
    """Take what the journal has, and detect in the other photographs, in their order.

    Those that are tried again for want of memory come last.
    """
    names = {path: name_below(path, folder) for path in paths}
    # As the files are now, before they are read: one that changes meanwhile is done again.
    stamps = {path: find_stamp(path) for path in paths}
    known = {path: journal.find(names[path], stamps[path]) for path in paths}
    missing = [path for path in paths if known[path] is None]
    detected = _note(detector.detect_paths(missing, max_side), journal, names, stamps)
    ahead = next(detected, None)
    for path in paths:
        before = known.pop(path)
        if before is not None:
            yield path, before
        elif ahead is not None and ahead[0] == path:
            yield ahead
            ahead = next(detected, None)
    if ahead is not None:
        yield ahead
    yield from detected


def _note(
    detected: Iterator[tuple[Path, Detections | DataError]],
    journal: Journal,
    names: dict[Path, str],
    stamps: dict[Path, list[int] | None],
) -> Iterator[tuple[Path, Detections | DataError]]:
    """Write what is found into the journal."""
    for path, found in detected:
        if not isinstance(found, DataError):
            journal.add(names[path], stamps[path], found)
        yield path, found


def stream_folder(
    detector: PhotoDetector,
    folder: Path,
    out: TextIO,
    min_score: float,
    max_side: int = DEFAULT_MAX_SIDE,
) -> int:
    """Detect on a folder and write a line of json for each photograph as soon as it is done.

    Parameters
    ----------
    detector, folder, min_score, max_side : PhotoDetector, Path, float, int
        As of `report_folder`.
    out : TextIO
        Gets the lines; that of a photograph which cannot be read has an "error".

    Returns
    -------
    int
        How many photographs could not be read.
    """
    paths = leave_out_reports(find_photographs(folder), folder)
    failed = 0
    for path, found in detector.detect_paths(paths, max_side):
        name = name_below(path, folder)
        try:
            if isinstance(found, DataError):
                raise found
            shown = found[found.scores >= min_score]
            likely = _find_probabilities(detector, shown)
            line = write_line(name, photo_size(path, max_side), shown, detector.classes, likely)
        except DataError as error:
            failed += 1
            line = json.dumps({"photograph": name, "error": make_readable(str(error))})
        print(line, file=out, flush=True)
    return failed


def _find_probabilities(detector: PhotoDetector, found: Detections) -> list[float] | None:
    likely = detector.find_probabilities(found)
    return None if likely is None else likely.tolist()


def _describe(detector: PhotoDetector) -> dict[str, str]:
    """Say in words how a detector works."""
    config = detector.config
    return {
        "trunk": f"{config.backbone}, weights {config.weights}",
        "short sides": ", ".join(f"{scale} pixels" for scale in config.scales),
        "windows": f"{config.proposals}, at most {config.max_windows}",
        "features": config.feature,
        "passes": str(config.passes),
        "made by": f"spp-detect {find_version('spp-detect')}, {find_commit() or 'no checkout'}",
        "threads": str(get_threads()),
    }


def _tell_time(report: FolderReport, begun: float) -> None:
    seconds = time.monotonic() - begun
    each = seconds / report.count
    report.settings["seconds"] = f"{seconds:.1f}, {each:.2f} a photograph"


def propose_folder(
    folder: Path, split: str, settings: ProposalSettings, out: Path, max_side: int
) -> tuple[Recall | None, int]:
    """Propose windows in every photograph of a folder, or of a labelled split, and save them.

    Where there are labels the recall is written beside the boxes, as .json.

    Parameters
    ----------
    folder : Path
        Photographs, or a labelled set.
    split : str
        Of a labelled set.
    settings : ProposalSettings
        How windows are proposed.
    out : Path
        The file that gets the boxes.
    max_side : int
        Largest side of a photograph in pixels.

    Returns
    -------
    recall : Recall or None
        None where there are no labels.
    skipped : int
        How many photographs could not be read.
    """
    dataset = open_dataset(folder, split, max_side=max_side) if is_labelled(folder) else None
    if out.suffix != ".npz":
        raise ProposalError(f"{out}: expected a name that ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    lost = [fault.told for fault in dataset.faults if fault.outcome == LEFT_OUT] if dataset else []
    for told in lost:
        logger.warning("skipped: %s", told)
    paths = [p.path for p in dataset] if dataset else find_photographs(folder)
    root = folder if folder.is_dir() and not dataset else None
    names = {path: path.relative_to(root).as_posix() if root else path.stem for path in paths}
    for name, count in Counter(names.values()).items():
        if count > 1:
            raise ProposalError(f"{folder}: {count} photographs are called {name!r}; expected one")
    prepared = prepare_photos(paths, search_windows(settings), max_side)
    windows: dict[Path, NDArray[np.float32]] = {}
    start = time.perf_counter()
    for path, one in track(prepared, "proposals", len(paths)):
        if isinstance(one, DataError):
            logger.warning("skipped: %s", one)
        else:
            windows[path] = one[1]
    seconds = round(time.perf_counter() - start, 1)
    save_boxes(out, [names[path] for path in windows], list(windows.values()), settings.method)
    if not dataset:
        return None, len(paths) - len(windows)
    read = [photograph for photograph in dataset if photograph.path in windows]
    truths = [photograph.labels.easy.boxes for photograph in read]
    recall = measure_recall([windows[photograph.path] for photograph in read], truths)
    numbers = {
        "method": settings.key(),
        "split": split,
        "photographs": len(read),
        "recall_50": recall.at_50,
        "recall_70": recall.at_70,
        "average_recall": recall.average,
        "windows": recall.windows,
        "seconds": seconds,
        "record": record_run(),
    }
    write_json(out.with_suffix(".recall.json"), numbers)
    return recall, len(lost) + len(paths) - len(windows)


def _tell_passed_over(folder: Path, drawings: int) -> None:
    others = leave_out_reports(find_others(folder), folder)
    kinds = Counter(path.suffix.lower() for path in others)
    if kinds:
        each = ", ".join(f"{count} {kind or 'without'}" for kind, count in kinds.most_common())
        logger.warning("passed over %d files by their suffix: %s", kinds.total(), each)
    if drawings:
        logger.warning("passed over %d photographs in folders of results", drawings)
