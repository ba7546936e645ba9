"""The one table of a training set's windows: true boxes, then proposals, their mirror images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import LabelledSet
from spp_detect.files import replace_file, write_array
from spp_detect.mirror import mirror_boxes
from spp_detect.prefetch import WindowSource, prepare_photos
from spp_detect.progress import track
from spp_detect.projection import unique_rows
from spp_detect.training.run_folder import TrainingError, read_array
from spp_detect.training.stage import Stage
from spp_detect.workers import Workers

BYTES = 16  # of a window in its file
ROW_BITS = 24  # a window's key is its photograph's number and, in these bits, its row

Windows = NDArray[np.float32]
Rows = NDArray[np.int64]


class WindowTable:
    """Every photograph's windows in one order, on which every stage relies.

    A photograph's rows are its boxes that are not difficult, then its proposals, then its difficult
    boxes, which serve as negatives only.

    Parameters
    ----------
    dataset : LabelledSet
        The photographs.
    proposals : sequence of float32 (N, 4)
        Of each photograph, in its pixels.
    difficult : bool
        Whether difficult boxes are in the table.

    Attributes
    ----------
    sha256 : str
        Of all windows.
    """

    def __init__(
        self, dataset: LabelledSet, proposals: Sequence[Windows], *, difficult: bool = False
    ) -> None:
        if len(proposals) != len(dataset):
            raise ValueError(f"windows of {len(proposals)} photographs: expected {len(dataset)}")
        self.widths = [photograph.width for photograph in dataset]
        self.boxes = [len(photograph.labels.easy) for photograph in dataset]
        self.proposals = [len(own) for own in proposals]
        self._labels = [photograph.labels for photograph in dataset]
        self._proposals = proposals
        self._difficult = difficult
        self.sha256 = _hash(self._join(i) for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.proposals)

    def _join(self, index: int) -> Windows:
        """Join a photograph's rows; proposals may lie on the disk until then."""
        labels = self._labels[index]
        last = labels.boxes[labels.difficult & self._difficult]
        rows = np.concatenate([labels.easy.boxes, self._proposals[index], last])
        return rows.astype(np.float32, copy=False)

    def find(self, index: int, *, mirrored: bool = False) -> Windows:
        """Find the windows, float32 (N, 4), of a photograph or of its mirror image."""
        windows = self._join(index)
        return mirror_boxes(windows, self.widths[index]) if mirrored else windows

    def find_rows(self, index: int) -> Rows:
        """Find all rows of a photograph: int64 (N,)."""
        difficult = int(self._labels[index].difficult.sum()) if self._difficult else 0
        return np.arange(self.boxes[index] + self.proposals[index] + difficult)

    def find_boxes(self, index: int) -> Rows:
        """Find the rows of a photograph's true boxes: int64."""
        return np.arange(self.boxes[index])

    def find_proposals(self, index: int) -> Rows:
        """Find the rows of a photograph's proposals: int64."""
        return self.boxes[index] + np.arange(self.proposals[index])

    def find_learnt(self, index: int) -> Windows:
        """Find the windows of a photograph's first rows: true boxes and proposals."""
        return self._join(index)[: self.boxes[index] + self.proposals[index]]

    def find_distinct(self, index: int) -> tuple[Rows, Rows]:
        """Find a photograph's distinct windows, as `unique_rows` does: their rows, and each's."""
        return unique_rows(self._join(index))

    def hash_photograph(self, index: int) -> str:
        """Hash a photograph's windows."""
        return _hash([self._join(index)])


class StoredWindows(Sequence[Windows]):
    """All photographs' proposals in one file, which is mapped into memory where it is used.

    Sent to another process it goes by its path.

    Parameters
    ----------
    path : Path
        Float32 values, four a window, without a header.
    counts : int64 (N,)
        How many windows each photograph has.
    """

    def __init__(self, path: Path, counts: NDArray[np.int64]) -> None:
        self.path = path
        self.counts = counts
        self._ends = np.cumsum(counts)
        self._windows: Windows = np.zeros((0, 4), np.float32)
        if counts.sum():
            self._windows = np.memmap(path, "<f4", "r", shape=(int(counts.sum()), 4))

    def __reduce__(self) -> tuple[type[StoredWindows], tuple[Path, NDArray[np.int64]]]:
        return StoredWindows, (self.path, self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, index: Any) -> Any:
        end = int(self._ends[index])
        return self._windows[end - int(self.counts[index]) : end]


def make_keys(index: int, rows: Rows) -> Rows:
    """Number windows so that no two of a set have the same key."""
    return (np.int64(index) << ROW_BITS) + rows


def photographs_of(keys: Rows) -> Rows:
    """Find the photograph of each key."""
    return keys >> ROW_BITS


def split_keys(keys: Rows) -> list[tuple[int, Rows]]:
    """Split keys that stand photograph by photograph: each one's index and the rows."""
    if not len(keys):
        return []
    photographs = keys >> ROW_BITS
    starts = np.flatnonzero(np.diff(photographs)) + 1
    rows = np.split(keys & ((1 << ROW_BITS) - 1), starts)
    return list(zip(photographs[np.r_[0, starts]].tolist(), rows, strict=True))


class Proposals(Stage[WindowTable]):
    """Propose windows in every photograph and write the table down.

    Parameters
    ----------
    work : Path
        The run's work folder.
    dataset : LabelledSet
        The photographs.
    source : WindowSource
        Gives a photograph's windows.
    max_side : int
        Largest side of a photograph in pixels.
    difficult : bool
        Whether the table has difficult boxes.
    workers : Workers, optional
        Who proposes, some photographs each.
    """

    name = "proposals"

    def __init__(
        self,
        work: Path,
        dataset: LabelledSet,
        source: WindowSource,
        max_side: int,
        *,
        difficult: bool = False,
        workers: Workers | None = None,
    ) -> None:
        self.leaves = (work / "windows.bin", work / "window_counts.npy")
        self.dataset = dataset
        self.source = source
        self.max_side = max_side
        self.difficult = difficult
        self.workers = workers or Workers()

    def run(self) -> None:
        """Propose windows in every photograph."""
        paths = [photograph.path for photograph in self.dataset]
        proposed = self.workers.map(self._propose, paths)
        counts = []
        with replace_file(self.leaves[0]) as temporary, temporary.open("wb") as file:
            for windows in track(proposed, "proposals", len(paths)):
                file.write(np.ascontiguousarray(windows, "<f4").tobytes())
                counts.append(len(windows))
        write_array(self.leaves[1], np.array(counts, np.int64))

    def load(self) -> WindowTable:
        """Map the table into memory."""
        counts = read_array(self.leaves[1])
        held = self.leaves[0].stat().st_size
        if len(counts) != len(self.dataset) or held != counts.sum() * BYTES:
            raise TrainingError(
                f"{self.leaves[0]}: holds {held / BYTES:g} windows, and {self.leaves[1].name} has "
                f"{counts.sum()} of {len(counts)} photographs; expected them as the run wrote "
                "them, delete both to propose anew"
            )
        proposals = StoredWindows(self.leaves[0], counts)
        return WindowTable(self.dataset, proposals, difficult=self.difficult)

    def _propose(self, paths: Sequence[Path]) -> Iterator[Windows]:
        for _, one in prepare_photos(paths, self.source, self.max_side):
            if isinstance(one, Exception):
                raise one
            yield one[1]


def _hash(arrays: Iterable[Windows]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{len(array)}\n".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
