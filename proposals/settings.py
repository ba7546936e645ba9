"""What is proposed, and how: the settings that every method shares."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path


class ProposalError(ValueError):
    """A photograph, setting, file or installation that no windows can come from."""


METHODS: tuple[str, ...] = (
    "selective-search-dense",
    "selective-search",
    "opencv-dense",
    "opencv-fast",
    "opencv-quality",
    "alpacadb",
    "edgeboxes",
)

# Raised whenever a change of this package's code changes the boxes, so that caches are not reused.
_REVISION = 2


@dataclass(frozen=True)
class ProposalSettings:
    """How windows are proposed.

    Parameters
    ----------
    method : str
        One of ``METHODS``.
    max_windows : int
        At most so many windows a photograph, the best ones.
    min_side : float
        Windows narrower or lower than so many pixels of the original photograph are dropped.
        The release's 20 loses VOC's small objects; 10 drops windows that hit none.
    seed : int
        Seed of the random order of selective search's windows. EdgeBoxes has an order of its own.
    edge_model : Path or None
        Structured-edge model (``model.yml.gz``) for ``edgeboxes``; without it the edges are
        gradients.

    Raises
    ------
    ProposalError
        On an unknown method, a number out of range, or a missing edge model.

    Examples
    --------
    >>> ProposalSettings("selective-search", max_windows=500).key()
    'revision=2 method=selective-search max_windows=500 min_side=10.0 seed=0'
    """

    method: str = "selective-search-dense"
    max_windows: int = 3000
    min_side: float = 10.0
    seed: int = 0
    edge_model: Path | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ProposalError(f"method is {self.method!r}, expected one of {', '.join(METHODS)}")
        _check_int("max_windows", self.max_windows, least=1)
        _check_int("seed", self.seed, least=0)
        side = self.min_side
        if isinstance(side, bool) or not isinstance(side, Real) or not 0 <= side < math.inf:
            raise ProposalError(f"min_side is {side!r}, expected a finite number of pixels >= 0")
        if self.edge_model is not None:
            self._check_edge_model(self.edge_model)

    def _check_edge_model(self, given: Path) -> None:
        if self.method != "edgeboxes":
            raise ProposalError(
                f"edge_model is {str(given)!r}, expected none with method {self.method!r}"
            )
        path = Path(given)
        if not path.is_file():
            raise ProposalError(f"edge_model {path}: no such file")
        object.__setattr__(self, "edge_model", path)

    def key(self) -> str:
        """Return a stable text of everything that changes the boxes.

        An edge model stands there with the SHA-256 of its content, so a moved model keeps the key
        and a replaced one changes it.

        Returns
        -------
        str
            Words ``name=value``.
        """
        parts = [
            f"revision={_REVISION}",
            f"method={self.method}",
            f"max_windows={int(self.max_windows)}",
            f"min_side={float(self.min_side)!r}",
        ]
        if self.method == "edgeboxes":
            model = "none" if self.edge_model is None else hash_file(self.edge_model)
            parts.append(f"edge_model={model}")
        else:
            parts.append(f"seed={int(self.seed)}")
        return " ".join(parts)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ProposalError(f"{path}: cannot be read ({error.strerror})") from error


def _check_int(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ProposalError(f"{name} is {value!r}, expected a whole number >= {least}")
