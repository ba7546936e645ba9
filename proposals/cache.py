"""Windows kept on disk, so that a photograph is searched once."""

from __future__ import annotations

import hashlib
import importlib.metadata
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from proposals.boxes_file import load_boxes, save_boxes
from proposals.settings import ProposalError, ProposalSettings
from proposals.windows import propose

_LIBRARIES = ("numpy", "scikit-image", "selectivesearch")


class ProposalCache:
    """A folder with one file of windows per photograph and settings.

    A file is found by the SHA-256 of the photograph's pixels, of ``ProposalSettings.key()`` and
    of the versions of the libraries that the boxes come from, so a renamed photograph is found
    again and a changed one is not mistaken. Several threads and processes may share the folder.

    Parameters
    ----------
    folder : path
        Made if it does not exist.

    Raises
    ------
    ProposalError
        If the folder cannot be made.

    Examples
    --------
    >>> import tempfile
    >>> photo = np.zeros((40, 60, 3), np.uint8)
    >>> photo[10:30, 20:50] = 255
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = ProposalCache(folder)
    ...     searched = cache.propose("a.jpg", photo)
    ...     kept = cache.propose("a.jpg", photo)
    ...     np.array_equal(kept, searched), len(list(cache.folder.iterdir()))
    (True, 1)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProposalError(f"{folder}: cannot be made a folder ({error.strerror})") from error

    def propose(
        self, name: str | Path, photo: NDArray[np.uint8], settings: ProposalSettings | None = None
    ) -> NDArray[np.float32]:
        """Return the windows of ``proposals.propose``, from the folder where they are there.

        A damaged file is searched anew and replaced.

        Parameters
        ----------
        name : str or Path
            The photograph's name or path, for error messages only.
        photo : uint8 (H, W, 3)
            RGB.
        settings : ProposalSettings, optional
            Its defaults if not given.

        Returns
        -------
        float32 (N, 4)
            As ``proposals.propose``.

        Raises
        ------
        ProposalError
            As ``proposals.propose``, with the photograph's name, or if the folder cannot be
            written.
        """
        settings = ProposalSettings() if settings is None else settings
        try:
            digest = _hash(photo, settings)
            path = self.folder / f"{digest}.npz"
            kept = _load(path, digest)
            if kept is not None:
                return kept
            boxes = propose(photo, settings)
            save_boxes(path, [digest], [boxes], method=settings.method)
        except ProposalError as error:
            raise ProposalError(f"{name}: {error}") from error
        return boxes


def _load(path: Path, digest: str) -> NDArray[np.float32] | None:
    """Return the boxes of a cache file, None where it is missing or damaged."""
    if not path.is_file():
        return None
    try:
        boxes = load_boxes(path).find(digest)
    except ProposalError:
        return None
    return boxes if len(boxes) else None


def _hash(photo: NDArray[np.uint8], settings: ProposalSettings) -> str:
    pixels = np.ascontiguousarray(photo)
    text = f"{pixels.shape} {pixels.dtype} {settings.key()} {_read_versions()}"
    digest = hashlib.sha256(text.encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _read_versions() -> str:
    versions = [f"opencv={getattr(cv2, '__version__', 'none')}"]
    for library in _LIBRARIES:
        try:
            versions.append(f"{library}={importlib.metadata.version(library)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{library}=none")
    return " ".join(versions)
