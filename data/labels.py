"""What every labelled set becomes, whichever files it was read from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from data.errors import DataError, problem, shorten
from data.faults import CLIPPED, SWAPPED, TAKEN_AS_IT_IS, Fault, Faults

Corners = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Labels:
    """The labelled objects of one photograph.

    Attributes
    ----------
    boxes : numpy.ndarray
        Float32 ``(N, 4)``, x1 y1 x2 y2, 0-based, half-open, pixels.
    classes : numpy.ndarray
        Int64 ``(N,)``, indices into ``LabelledSet.classes``.
    difficult : numpy.ndarray
        Bool ``(N,)``, neither positives in training nor counted in evaluation.

    Examples
    --------
    >>> boxes = np.array([[0, 0, 9, 9], [5, 5, 7, 7]], np.float32)
    >>> labels = Labels(boxes, np.array([0, 2]), np.array([False, True]))
    >>> len(labels), labels.easy.classes
    (2, array([0]))
    """

    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def easy(self) -> Labels:
        """The objects that are not difficult."""
        kept = ~self.difficult
        return Labels(self.boxes[kept], self.classes[kept], self.difficult[kept])


@dataclass(frozen=True)
class Photograph:
    """One labelled photograph.

    Attributes
    ----------
    name : str
        Unique in its set: the id of a VOC set, the image id of a COCO file, the file's stem in a
        YOLO folder.
    path : pathlib.Path
        Its file.
    width, height : int
        In pixels, after EXIF orientation.
    labels : Labels
        Its objects.
    """

    name: str
    path: Path
    width: int
    height: int
    labels: Labels


@dataclass(frozen=True)
class LabelledSet:
    """One split of a labelled set; its length and iteration are those of ``photographs``.

    Attributes
    ----------
    root : pathlib.Path
        Where the set lies.
    split : str
        The split's name.
    classes : tuple of str
        The names that labels index.
    photographs : tuple of Photograph
        In the order of the split.
    left_out : dict of str to int
        How many objects of other classes the photographs show.
    notes : tuple of str
        What else was left out, in words.
    faults : tuple of Fault
        What was wrong in its files, and was mended or left out.
    """

    root: Path
    split: str
    classes: tuple[str, ...]
    photographs: tuple[Photograph, ...]
    left_out: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()

    def __len__(self) -> int:
        return len(self.photographs)

    def __iter__(self) -> Iterator[Photograph]:
        return iter(self.photographs)


def join_sets(sets: Sequence[LabelledSet]) -> LabelledSet:
    """Join labelled sets into one, as VOC 2007 and 2012 are for "07+12".

    Parameters
    ----------
    sets : sequence of LabelledSet
        At least one; of the same classes in the same order, no name in two of them.

    Returns
    -------
    LabelledSet
        All photographs, set after set; root and split are the first's.

    Raises
    ------
    DataError
        For other classes than the first's, or a name that stands in two sets.

    Examples
    --------
    >>> no_labels = Labels(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool))
    >>> dog, cat = (Photograph(name, Path(name), 9, 9, no_labels) for name in ("dog", "cat"))
    >>> one, other = (LabelledSet(Path("pets"), "train", ("pet",), (own,)) for own in (dog, cat))
    >>> [photograph.name for photograph in join_sets([one, other])]
    ['dog', 'cat']
    """
    first = sets[0]
    homes: dict[str, Path] = {}
    for one in sets:
        if one.classes != first.classes:
            expected = f"expected those of {first.root}: {shorten([*first.classes])}"
            raise problem(one.root, f"has the classes {shorten([*one.classes])}; {expected}")
        for photograph in one:
            if photograph.name in homes:
                other = homes[photograph.name]
                raise problem(photograph.path, f"{other} has the same name; expected each once")
            homes[photograph.name] = photograph.path
    joined = tuple(photograph for one in sets for photograph in one)
    left_out = sum((Counter(one.left_out) for one in sets), Counter())
    notes = tuple(note for one in sets for note in one.notes)
    faults = tuple(fault for one in sets for fault in one.faults)
    return replace(first, photographs=joined, left_out=dict(left_out), notes=notes, faults=faults)


class LabelledObject(NamedTuple):
    """One object as read from a file.

    Attributes
    ----------
    class_name : str
        The name of its class.
    box : tuple of float
        x1 y1 x2 y2, 0-based, half-open, pixels; already checked.
    difficult : bool
        Whether it is neither positive in training nor counted in evaluation.
    """

    class_name: str
    box: Corners
    difficult: bool


class Record(NamedTuple):
    """One photograph as read.

    Attributes
    ----------
    name : str
        Unique in its set.
    path : pathlib.Path
        Its file.
    source : pathlib.Path
        The file that its labels came from.
    width, height : int
        In pixels, after EXIF orientation.
    objects : list of LabelledObject
        What it shows.
    """

    name: str
    path: Path
    source: Path
    width: int
    height: int
    objects: list[LabelledObject]


def order_corners(source: Path, given: str, corners: Corners, faults: Faults) -> Corners:
    """Order corners so that x1 < x2 and y1 < y2; DataError where they are not finite, or no box."""
    x1, y1, x2, y2 = corners
    if not all(math.isfinite(value) for value in corners):
        raise problem(source, f"{given} is not finite; expected numbers")
    if x2 == x1 or y2 == y1:
        raise problem(source, f"{given} has zero area; expected min < max on both axes")
    if x2 < x1 or y2 < y1:
        told = f"{given} is inverted; expected min < max on both axes"
        faults.tell(problem(source, told), SWAPPED)
    return (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))


def check_size(source: Path, told: tuple[Any, Any], size: tuple[int, int], faults: Faults) -> None:
    """Tell where a file says another (width, height) than its photograph has.

    Its boxes are then, most likely, of the photograph before it was made smaller or turned. Tools
    that know no size write none, or zeros.
    """
    try:
        width, height = (int(value) for value in told)
    except (TypeError, ValueError, OverflowError):
        return
    if min(width, height) > 0 and (width, height) != size:
        given = f"says that the photograph has {width} x {height} pixels"
        expected = f"expected {size[0]} x {size[1]}: was it made smaller, or turned, since?"
        faults.tell(problem(source, f"{given}; {expected}"), TAKEN_AS_IT_IS)


def clip_box(
    source: Path, given: str, box: Corners, size: tuple[int, int], faults: Faults
) -> Corners:
    """Clip a 0-based half-open box to its photograph of (width, height).

    Many labelling tools count pixels from 0 where VOC counts from 1, so one pixel outside is no
    fault. DataError for a box of which nothing lies inside.
    """
    width, height = size
    x1, y1, x2, y2 = box
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    expected = f"expected a box within {width} x {height} pixels"
    error = problem(source, f"{given} is outside the photograph; {expected}")
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise error
    if min(x1, y1) < -1 or x2 > width + 1 or y2 > height + 1:
        faults.tell(error, CLIPPED)
    return clipped


def check_classes(origin: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Return class names as a tuple; DataError where there is none or one stands twice."""
    if isinstance(classes, str):
        raise DataError(f"{origin}: classes {classes!r}; expected a sequence of names")
    names = tuple(classes)
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise DataError(
            f"{origin}: classes {list(names)!r}; expected at least one name, none blank"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{origin}: class {twice[0]!r} stands twice; expected each name once")
    return names


def build_set(
    root: Path, split: str, classes: tuple[str, ...], records: Sequence[Record]
) -> LabelledSet:
    """Return the set of the records, objects of other classes left out.

    DataError on a name used twice, and for a set that has objects, but of other classes only.
    """
    names: set[str] = set()
    for record in records:
        if record.name in names:
            raise problem(record.path, f"name {record.name!r} is used twice; expected unique names")
        names.add(record.name)
    others = sorted({o.class_name for r in records for o in r.objects} - set(classes))
    every = (*classes, *others)
    index = {name: number for number, name in enumerate(every)}
    photographs = tuple(
        Photograph(r.name, r.path, r.width, r.height, _number_labels(r, index)) for r in records
    )
    whole = LabelledSet(root, split, every, photographs)
    return select_classes(whole, classes) if others else whole


def select_classes(dataset: LabelledSet, classes: Sequence[str]) -> LabelledSet:
    """Leave out the objects of all other classes.

    Parameters
    ----------
    dataset : LabelledSet
        Any.
    classes : sequence of str
        Names, whose order is kept; one that the set has not got has no objects.

    Returns
    -------
    LabelledSet
        The same photographs; `left_out` has what was left out here and before.

    Raises
    ------
    DataError
        Where the set has objects, but of other classes only.

    Examples
    --------
    >>> labels = Labels(np.zeros((3, 4), np.float32), np.array([0, 1, 0]), np.zeros(3, bool))
    >>> photograph = Photograph("a", Path("a.jpg"), 9, 9, labels)
    >>> pets = LabelledSet(Path("pets"), "train", ("cat", "dog"), (photograph,))
    >>> dogs = select_classes(pets, ["dog"])
    >>> dogs.photographs[0].labels.classes, dogs.left_out
    (array([0]), {'cat': 2})
    """
    number = {name: i for i, name in enumerate(classes)}
    new = np.array([number.get(name, -1) for name in dataset.classes], np.int64)
    counts = np.zeros(len(dataset.classes), int)
    photographs = []
    for photograph in dataset:
        labels = photograph.labels
        np.add.at(counts, labels.classes, 1)
        kept = new[labels.classes] >= 0
        own = Labels(labels.boxes[kept], new[labels.classes[kept]], labels.difficult[kept])
        photographs.append(replace(photograph, labels=own))
    if counts.any() and not counts[new >= 0].any():
        found = shorten([n for n, count in zip(dataset.classes, counts, strict=True) if count])
        raise problem(
            dataset.root,
            f"split {dataset.split} has none of the classes {shorten([*classes])}; it has {found}",
        )
    others = {dataset.classes[c]: int(counts[c]) for c in np.flatnonzero((new < 0) & (counts > 0))}
    return replace(
        dataset,
        classes=tuple(classes),
        photographs=tuple(photographs),
        left_out=dataset.left_out | others,
    )


def _number_labels(record: Record, index: dict[str, int]) -> Labels:
    objects = record.objects
    return Labels(
        np.array([o.box for o in objects], np.float32).reshape(-1, 4),
        np.array([index[o.class_name] for o in objects], np.int64),
        np.array([o.difficult for o in objects], np.bool_),
    )
