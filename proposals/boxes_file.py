"""Files of boxes: our own, and those that R-CNN and Fast R-CNN published."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import ArrayLike, NDArray

from proposals.settings import ProposalError

_FORMAT = 1
HOME = Path(__file__).resolve().parents[1]
REFUSED = 3  # exit status of a process that reads a .mat file, and says why not


@dataclass(frozen=True, eq=False)
class BoxesFile:
    """Boxes of many photographs.

    Parameters
    ----------
    names : tuple of str
        The photographs' names, unique.
    boxes : tuple of float32 (N, 4)
        Per photograph x1 y1 x2 y2, 0-based, half-open, in pixels of the photograph.
    method : str
        How they were made; empty where the file does not say.

    Examples
    --------
    >>> content = BoxesFile(("a", "b"), (np.ones((3, 4)), np.ones((1, 4))))
    >>> len(content), "b" in content, content.find("a").shape
    (2, True, (3, 4))
    >>> [(name, len(boxes)) for name, boxes in content]
    [('a', 3), ('b', 1)]
    """

    names: tuple[str, ...]
    boxes: tuple[NDArray[np.float32], ...]
    method: str = ""
    _places: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        places = {name: place for place, name in enumerate(self.names)}
        object.__setattr__(self, "_places", places)

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        return iter(zip(self.names, self.boxes, strict=True))

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def find(self, name: str) -> NDArray[np.float32]:
        """Return the boxes of a photograph by name.

        Parameters
        ----------
        name : str
            One of ``names``.

        Returns
        -------
        float32 (N, 4)
            Its boxes.

        Raises
        ------
        ProposalError
            If it is not there.
        """
        if name not in self._places:
            raise ProposalError(f"no boxes for photograph {name!r} among {len(self)} photographs")
        return self.boxes[self._places[name]]


def save_boxes(
    path: str | Path, names: Sequence[str], boxes: Sequence[ArrayLike], method: str = ""
) -> None:
    """Save boxes as ``.npz``, atomically and without pickle.

    The file holds ``version``, ``method``, ``names`` (N,), ``boxes`` float32 (M, 4) of all
    photographs one after the other, and ``offsets`` int64 (N + 1,): photograph i has the rows
    ``offsets[i]:offsets[i + 1]``.

    Parameters
    ----------
    path : path
        Ends in ``.npz``; its folder exists.
    names : sequence of str
        The photographs' names, unique.
    boxes : sequence of (N, 4)
        As many, each x1 y1 x2 y2, finite, x2 > x1 and y2 > y1.
    method : str
        How they were made.

    Raises
    ------
    ProposalError
        On another suffix, unequal counts, doubled names, bad boxes, or a file that cannot be
        written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_boxes(f"{folder}/boxes.npz", ["000005"], [[[0, 0, 9, 9], [2, 3, 7, 8]]], "by hand")
    ...     content = load_boxes(f"{folder}/boxes.npz")
    >>> content.find("000005").shape, content.method
    ((2, 4), 'by hand')
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ProposalError(f"{path}: expected a name that ends in .npz")
    content = _check_content(path, names, boxes, method)
    lengths = [len(rows) for rows in content.boxes]
    text = np.array(content.names, dtype=np.str_)
    if tuple(text.tolist()) != content.names:
        raise ProposalError(f"{path}: a photograph's name ends in a NUL character")
    _write_npz(
        path,
        version=np.int64(_FORMAT),
        method=np.str_(method),
        names=text,
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *content.boxes]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
    )


def load_boxes(path: str | Path) -> BoxesFile:
    """Load boxes from an ``.npz`` of ours or a ``.mat`` that R-CNN or Fast R-CNN published.

    A ``.mat`` has ``images``, a cell array of N names, and ``boxes``, one of N arrays (n, 4) in
    the order y1 x1 y2 x2, 1-based and inclusive; the boxes come back 0-based and half-open.

    Parameters
    ----------
    path : path
        Ends in ``.npz`` or ``.mat``.

    Returns
    -------
    BoxesFile
        The boxes of all its photographs; for an example see `save_boxes`.

    Raises
    ------
    ProposalError
        If the file is missing, damaged, of another format, or holds unequal counts, doubled names
        or boxes that are not finite or not x2 > x1, y2 > y1.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".mat"):
        raise ProposalError(f"{path}: expected a name that ends in .npz or .mat")
    if not path.is_file():
        raise ProposalError(f"{path}: no such file")
    return _load_npz(path) if path.suffix == ".npz" else _load_mat(path)


def _load_npz(path: Path) -> BoxesFile:
    try:
        with np.load(path, allow_pickle=False) as archive:
            content = {key: archive[key] for key in archive.files}
    # A damaged archive raises whatever the zip, zlib or header parser stumbles over first.
    except Exception as error:
        raise ProposalError(f"{path}: damaged boxes file ({_shorten(error)})") from error
    missing = {"version", "method", "names", "boxes", "offsets"} - content.keys()
    if missing:
        raise ProposalError(f"{path}: no boxes file, {', '.join(sorted(missing))} missing")
    version, names, boxes, offsets = (content[k] for k in ("version", "names", "boxes", "offsets"))
    if version.shape != () or version.dtype.kind not in "iu" or version != _FORMAT:
        raise ProposalError(f"{path}: format version {version}, expected {_FORMAT}")
    if names.ndim != 1 or names.dtype.kind != "U" or content["method"].dtype.kind != "U":
        raise ProposalError(f"{path}: names or method are not text")
    if boxes.dtype != np.float32 or boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ProposalError(f"{path}: boxes are {boxes.dtype} {boxes.shape}, expected float32 M×4")
    if (
        offsets.dtype != np.int64
        or offsets.shape != (len(names) + 1,)
        or offsets[0] != 0
        or offsets[-1] != len(boxes)
        or (np.diff(offsets) < 0).any()
    ):
        raise ProposalError(
            f"{path}: offsets do not part {len(boxes)} boxes among {len(names)} photographs"
        )
    rows = [boxes[start:stop] for start, stop in pairwise(offsets)]
    return _check_content(path, names.tolist(), rows, str(content["method"]))


def _load_mat(path: Path) -> BoxesFile:
    """Load in a process of its own: a damaged file can end SciPy's reader by a signal."""
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "boxes.npz"
        code = (
            f"import sys; sys.path.insert(0, {str(HOME)!r})\n"
            "from proposals.boxes_file import convert_mat\n"
            "convert_mat(*sys.argv[1:])"
        )
        command = [sys.executable, "-c", code, str(path), str(converted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == REFUSED:
            raise ProposalError(done.stdout.strip())
        if done.returncode or not converted.is_file():
            raise ProposalError(f"{path}: damaged .mat file, on which its reader ended")
        return _load_npz(converted)


def convert_mat(path: str, out: str) -> None:
    """Turn a .mat file into an .npz; where it cannot be, say why and exit with status REFUSED."""
    try:
        boxes = _read_mat(Path(path))
        save_boxes(out, boxes.names, boxes.boxes, boxes.method)
    except ProposalError as error:
        print(error)
        sys.exit(REFUSED)


def _read_mat(path: Path) -> BoxesFile:
    try:
        content = scipy.io.loadmat(str(path), variable_names=("boxes", "images"))
    except NotImplementedError as error:
        raise ProposalError(
            f"{path}: MATLAB v7.3 (HDF5) file, resave it in MATLAB with save(..., '-v7')"
        ) from error
    # A damaged file raises whatever scipy's parser stumbles over first.
    except Exception as error:
        raise ProposalError(f"{path}: damaged .mat file ({_shorten(error)})") from error
    missing = {"boxes", "images"} - content.keys()
    if missing:
        raise ProposalError(f"{path}: {' and '.join(sorted(missing))} missing, expected both")
    cells = {key: np.asarray(content[key]) for key in ("boxes", "images")}
    for key, cell in cells.items():
        if cell.dtype != object:
            raise ProposalError(
                f"{path}: {key} is {cell.dtype} {cell.shape}, expected a cell array"
            )
    names = [_read_name(path, cell) for cell in cells["images"].ravel()]
    boxes = [_read_cell(path, cell) for cell in cells["boxes"].ravel()]
    return _check_content(path, names, boxes, "")


def _read_name(path: Path, cell: Any) -> str:
    text = np.asarray(cell)
    if text.dtype.kind != "U" or text.size != 1:
        raise ProposalError(f"{path}: images holds {text.dtype} {text.shape}, expected names")
    return str(text.item())


def _read_cell(path: Path, cell: Any) -> NDArray[np.float64]:
    values = np.asarray(cell)
    if values.size == 0:
        return np.zeros((0, 4))
    if values.dtype.kind not in "iuf" or values.ndim != 2 or values.shape[1] != 4:
        raise ProposalError(f"{path}: boxes holds {values.dtype} {values.shape}, expected (n, 4)")
    # In float first: published files are uint16, where 0 - 1 would wrap round.
    return values.astype(np.float64)[:, [1, 0, 3, 2]] - [1, 1, 0, 0]


def _check_content(
    path: Path, names: Sequence[str], boxes: Sequence[ArrayLike], method: str
) -> BoxesFile:
    if len(names) != len(boxes):
        raise ProposalError(
            f"{path}: {len(names)} names and boxes of {len(boxes)} photographs, expected as many"
        )
    if not all(isinstance(name, str) for name in (*names, method)):
        raise ProposalError(f"{path}: names and method must be str")
    if len(set(names)) != len(names):
        doubled = next(name for name in names if list(names).count(name) > 1)
        raise ProposalError(f"{path}: photograph {doubled!r} stands there twice")
    rows = tuple(_check_boxes(path, n, b) for n, b in zip(names, boxes, strict=True))
    return BoxesFile(tuple(names), rows, method)


def _check_boxes(path: Path, name: str, boxes: ArrayLike) -> NDArray[np.float32]:
    try:
        rows = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise ProposalError(
            f"{path}: boxes of {name!r} are not numbers, expected (N, 4)"
        ) from error
    if rows.size == 0:
        return np.zeros((0, 4), np.float32)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ProposalError(f"{path}: boxes of {name!r} are {rows.shape}, expected (N, 4)")
    if not np.isfinite(rows).all():
        raise ProposalError(f"{path}: boxes of {name!r} are not all finite")
    if (rows[:, 2:] <= rows[:, :2]).any():
        raise ProposalError(f"{path}: boxes of {name!r} are not all x2 > x1 and y2 > y1")
    return rows


def _write_npz(path: Path, **arrays: Any) -> None:
    # Opened by name, not by tempfile, so that the file gets the user's usual permissions.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)
    except OSError as error:
        raise ProposalError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _shorten(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
