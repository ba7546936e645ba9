"""What is wrong in a labelled set's files, and what was made of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from data.errors import DataError

CLIPPED = "box clipped to its photograph"
SWAPPED = "corners of a box swapped"
NOT_DIFFICULT = "object taken as not difficult"
DROPPED = "box dropped"
LEFT_OUT = "photograph left out"
TAKEN_AS_IT_IS = "boxes taken as they are"
ANNOTATION_LEFT_OUT = "annotation left out"

Read = TypeVar("Read")


class Fault(NamedTuple):
    """One thing that was wrong.

    Attributes
    ----------
    told : str
        The file, what stands there and what was expected, on one line.
    outcome : str
        What was made of it.
    """

    told: str
    outcome: str


@dataclass
class Faults:
    """Collects faults while a set is read.

    Attributes
    ----------
    found : list of Fault
        In the order of reading.
    """

    found: list[Fault] = field(default_factory=list)

    def tell(self, error: DataError, outcome: str) -> None:
        """Add a fault."""
        self.found.append(Fault(str(error), outcome))

    def gather(self, reads: Iterable[Callable[[], Read]], outcome: str) -> list[Read]:
        """Read things one after the other; one that raises DataError is a fault and left out."""
        kept = []
        for read in reads:
            try:
                kept.append(read())
            except DataError as error:
                self.tell(error, outcome)
        return kept


def summarise_faults(faults: Iterable[Fault]) -> str:
    """Count faults by their outcome, and tell the first of them.

    Examples
    --------
    >>> summarise_faults([Fault("a.xml: one", DROPPED), Fault("b.xml: two", DROPPED)])
    '2 faults: 2 x box dropped; the first: a.xml: one'
    """
    found = list(faults)
    counts = Counter(fault.outcome for fault in found)
    each = ", ".join(f"{count} x {outcome}" for outcome, count in counts.items())
    plural = "s" if len(found) > 1 else ""
    return f"{len(found)} fault{plural}: {each}; the first: {found[0].told}"
