"""Files of detections: VOC's comp3 and comp4, COCO's results.

The files hold their formats' coordinates (VOC: 1-based, inclusive; COCO: x, y, width, height);
they are turned into half-open boxes here, where they are read and written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from eval.detections import (
    Detections,
    EvalError,
    check_classes,
    check_lengths,
    check_unique,
    join_detections,
)

_QUOTED = {ord(c): quote(c, safe="") for c in '%/\\:*?"<>|' + "".join(map(chr, range(32)))}
_RESULT_KEYS = {"image_id", "category_id", "bbox", "score"}


def write_comp(
    folder: str | Path,
    detections: Sequence[Detections],
    names: Sequence[str],
    classes: Sequence[str],
    *,
    competition: str = "comp4",
    split: str = "test",
) -> list[Path]:
    """Write VOC detection files, ``comp4_det_test_CLASS.txt``, one for every class.

    Each line is ``NAME SCORE xmin ymin xmax ymax``, coordinates 1-based and inclusive, in the
    order of the photographs. A class without detections gets an empty file. What no file can be
    called stands as in an address in CLASS and SPLIT: ``%2F`` for a slash. A score is written with
    as many digits as it takes to read the same float64 again, since the order of scores decides
    an AP; coordinates are written with 12 digits.

    Parameters
    ----------
    folder : path
        Made where it is missing.
    detections : sequence of Detections
        One per photograph.
    names : sequence of str
        The photographs' names, such as ``"000005"``; no white space.
    classes : sequence of str
        The names that the labels index.
    competition : {"comp3", "comp4"}
        VOC's mark: comp3 for training on its own data alone, comp4 for any data.
    split : str
        The name of the split, as in ``ImageSets/Main``.

    Returns
    -------
    list of pathlib.Path
        The files, in the order of ``classes``; each was written whole or not at all.

    Raises
    ------
    EvalError
        On arrays or names that do not fit, or a folder that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from eval import Detections
    >>> found = Detections([[262, 210, 324, 339]], [0.5], [0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cats, dogs = write_comp(folder, [found], ["000005"], ["cat", "dog"])
    ...     print(cats.name, cats.read_text(), dogs.read_text())
    ...     read_comp(folder, ["000005"], ["cat", "dog"]) == [found]
    comp4_det_test_cat.txt 000005 0.5 263 211 324 339
    <BLANKLINE>
    True
    """
    labels = check_classes(classes)
    _check_names(names)
    check_lengths(detections, names, "detections and names")
    if not split:
        raise EvalError("split: got '', expected a name")
    if competition not in ("comp3", "comp4"):
        raise EvalError(f"competition: got {competition!r}, expected 'comp3' or 'comp4'")
    found, photographs = join_detections(detections, len(labels))
    inclusive = found.boxes + np.array([1.0, 1.0, 0.0, 0.0])
    paths = []
    for label, class_name in enumerate(labels):
        rows = np.flatnonzero(found.labels == label)
        lines = [
            f"{names[photograph]} {score!r} {x1:.12g} {y1:.12g} {x2:.12g} {y2:.12g}\n"
            for photograph, score, (x1, y1, x2, y2) in zip(
                photographs[rows].tolist(),
                found.scores[rows].tolist(),
                inclusive[rows].tolist(),
                strict=True,
            )
        ]
        path = Path(folder) / f"{competition}_det_{_quote(split)}_{_quote(class_name)}.txt"
        write_atomically(path, "".join(lines).encode())
        paths.append(path)
    return paths


def quote_spaces(name: str) -> str:
    """Write a photograph's name without white space, which stands as in an address.

    Examples
    --------
    >>> quote_spaces("IMG 0030")
    'IMG%200030'
    """
    return "".join(quote(c) if c.isspace() else c for c in name)


def read_comp(
    folder: str | Path,
    names: Sequence[str],
    classes: Sequence[str],
    *,
    competition: str | None = None,
    split: str | None = None,
) -> list[Detections]:
    """Read VOC detection files, comp3 or comp4, whichever the folder holds for all classes.

    Parameters
    ----------
    folder : path
        Holds one ``COMPETITION_det_SPLIT_CLASS.txt`` per class. COMPETITION is comp3 or comp4,
        with or without something after it (``comp4_run1``, ``comp4-1234``).
    names : sequence of str
        The photographs' names, in the order wanted.
    classes : sequence of str
        The names that the labels shall index.
    competition, split : str, optional
        Which files to take, where the folder holds several sets.

    Returns
    -------
    list of Detections
        One per photograph, in the order of ``names``; within it by class, then as in the file.
        Boxes and scores are float64, so that scores tie only where the file's do.

    Raises
    ------
    EvalError
        Where the folder, the file of a class or the choice of one set is missing; on a line
        that is not a name and five finite numbers, or whose photograph is not in ``names``: the
        message gives file and line.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "comp3_det_val_cat.txt").write_text("000005 0.5 263 211 324 339")
    ...     (found,) = read_comp(folder, ["000005"], ["cat"])
    >>> found.boxes, found.scores, found.labels
    (array([[262., 210., 324., 339.]]), array([0.5]), array([0]))
    """
    labels = check_classes(classes)
    _check_names(names)
    index_of = {name: index for index, name in enumerate(names)}
    parts = [
        _read_comp_file(path, index_of)
        for path in _find_comp_files(Path(folder), labels, competition, split)
    ]
    numbers = np.concatenate([numbers for numbers, _ in parts])
    photographs = np.concatenate([photographs for _, photographs in parts])
    of_class = np.repeat(np.arange(len(labels)), [len(numbers) for numbers, _ in parts])
    return _split(numbers[:, 1:], numbers[:, 0], of_class, photographs, len(names))


def write_coco_results(
    path: str | Path,
    detections: Sequence[Detections],
    image_ids: Sequence[int | str],
    category_ids: Sequence[int | str],
) -> None:
    """Write detections as COCO results, a json list of image_id, category_id, bbox, score.

    Parameters
    ----------
    path : path
        The file; it is written whole or not at all.
    detections : sequence of Detections
        One per photograph.
    image_ids : sequence of int or str
        The photographs' ids.
    category_ids : sequence of int or str
        The id of each class, in the order that the labels index.

    Raises
    ------
    EvalError
        On arrays or ids that do not fit, or a file that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from eval import Detections
    >>> found = Detections([[262, 210, 324, 339]], [0.5], [0])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "results.json")
    ...     write_coco_results(path, [found], image_ids=[5], category_ids=[17])
    ...     print(path.read_text())
    ...     read_coco_results(path, [5], [17]) == [found]
    [{"image_id": 5, "category_id": 17, "bbox": [262.0, 210.0, 62.0, 129.0], "score": 0.5}]
    True
    """
    images, categories = (
        _check_ids(image_ids, "image_ids"),
        _check_ids(category_ids, "category_ids"),
    )
    check_lengths(detections, images, "detections and image_ids")
    found, photographs = join_detections(detections, len(categories))
    boxes = np.hstack([found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]])
    entries = [
        {"image_id": images[photograph], "category_id": categories[label], "bbox": box, "score": s}
        for photograph, label, box, s in zip(
            photographs.tolist(),
            found.labels.tolist(),
            boxes.tolist(),
            found.scores.tolist(),
            strict=True,
        )
    ]
    write_atomically(Path(path), json.dumps(entries).encode())


def read_coco_results(
    path: str | Path,
    image_ids: Sequence[int | str],
    category_ids: Sequence[int | str] | None,
    classes: Sequence[str] | None = None,
    aliases: Mapping[str, int | str] | None = None,
    *,
    left_out: Counter[str] | None = None,
) -> list[Detections]:
    """Read COCO results; the inverse of `write_coco_results`.

    Parameters
    ----------
    path : path
        A json list of objects with image_id, category_id, bbox ``[x, y, width, height]`` and
        score; other keys are left alone.
    image_ids : sequence of int or str
        The photographs' ids, in the order wanted.
    category_ids : sequence of int or str, or None
        The id of each class, in the order that the labels shall index; None where the classes have
        no ids that others could know, so that only names count.
    classes : sequence of str, optional
        The classes' names, in the same order: where an entry has a ``category``, that name counts
        and its id does not.
    aliases : mapping of str to int or str, optional
        What else an image_id may be, a file's name, and which of `image_ids` it then stands for.
        Of a path the last part counts.
    left_out : collections.Counter, optional
        Gets how many entries there are of each ``category`` that is none of ``classes``; without
        it they are refused.

    Returns
    -------
    list of Detections
        One per photograph, in the order of ``image_ids``; within it in the file's order. Boxes
        and scores are float64, so that scores tie only where the file's do.

    Raises
    ------
    EvalError
        On a file that cannot be read or is no such list; the message gives the entry, from 0.

    Examples
    --------
    >>> import tempfile
    >>> text = '[{"image_id": 5, "category_id": 17, "bbox": [2, 3, 10, 20], "score": 0.5}]'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "results.json")
    ...     _ = path.write_text(text)
    ...     (found,) = read_coco_results(path, image_ids=[5], category_ids=[1, 17])
    >>> found.boxes.tolist(), found.labels.tolist()
    ([[2.0, 3.0, 12.0, 23.0]], [1])
    """
    path = Path(path)
    image_of = {key: index for index, key in enumerate(_check_ids(image_ids, "image_ids"))}
    label_of = {
        key: index for index, key in enumerate(_check_ids(category_ids or (), "categories"))
    }
    names = check_classes(classes) if classes is not None else ()
    name_of = {name: index for index, name in enumerate(names)}
    numbers, photographs, labels = array("d"), array("q"), array("q")
    for index, entry in enumerate(_read_entries(path)):
        where = f"{path}: entry {index}"
        if not isinstance(entry, dict) or not entry.keys() >= _RESULT_KEYS:
            raise EvalError(f"{where}: expected {', '.join(sorted(_RESULT_KEYS))}")
        category = entry.get("category")
        if left_out is not None and name_of and type(category) is str and category not in name_of:
            left_out[category] += 1
            continue
        numbers.extend(_parse_result(entry, where))
        photographs.append(_look_up_image(entry, image_of, aliases or {}, where))
        if name_of and "category" in entry:
            labels.append(_look_up(entry, "category", name_of, where))
        elif category_ids is None:
            raise EvalError(
                f"{where}: category_id {entry['category_id']!r} without a name, and the set has no "
                "ids; expected its class as 'category'"
            )
        else:
            labels.append(_look_up(entry, "category_id", label_of, where))
    table = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    with np.errstate(over="ignore"):
        table[:, 3:] += table[:, 1:3]
    _check_finite(table, lambda row: f"{path}: entry {row}")
    return _split(table[:, 1:], table[:, 0], np.array(labels), np.array(photographs), len(image_of))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise EvalError where that fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        raise EvalError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _find_comp_files(
    folder: Path, classes: tuple[str, ...], competition: str | None, split: str | None
) -> list[Path]:
    """Return the file of each class, all of the one set that the folder holds."""
    if not folder.is_dir():
        raise EvalError(f"{folder}: no such folder, expected one with comp3 or comp4 files")
    present = sorted(path.name for path in folder.iterdir() if path.is_file())
    of_split = None if split is None else _quote(split)
    sets: dict[tuple[str, str], dict[str, Path]] = {}
    for class_name in classes:
        pattern = re.compile(
            rf"(comp[34](?:[_-].+?)?)_det_(.+)_{re.escape(_quote(class_name))}\.txt"
        )
        for file_name in present:
            match = pattern.fullmatch(file_name)
            if match and competition in (None, match[1]) and of_split in (None, match[2]):
                sets.setdefault((match[1], match[2]), {})[class_name] = folder / file_name
    if not sets:
        wanted = f"{competition or 'comp4'}_det_{of_split or 'SPLIT'}_{_quote(classes[0])}.txt"
        raise EvalError(f"{folder}: no comp3 or comp4 files, expected such as {wanted}")
    whole = [key for key, files in sets.items() if len(files) == len(classes)]
    if not whole:
        (mark, found), files = max(sets.items(), key=lambda item: len(item[1]))
        missing = next(name for name in classes if name not in files)
        raise EvalError(f"{folder / f'{mark}_det_{found}_{_quote(missing)}.txt'}: no such file")
    if len(whole) > 1:
        given = ", ".join(f"{mark}_det_{found}" for mark, found in whole)
        raise EvalError(f"{folder}: holds {given}; expected one set, or a choice of one")
    return [sets[whole[0]][class_name] for class_name in classes]


def _quote(name: str) -> str:
    """Write a name so that it can be part of a file's."""
    return name.translate(_QUOTED)


def _read_comp_file(path: Path, index_of: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 ``(n, 5)`` score and half-open box, and int64 ``(n,)`` photographs."""
    numbers, photographs, lines = array("d"), array("q"), array("q")
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            name, *values = fields
            score, x1, y1, x2, y2 = map(float, values)
        except ValueError:
            raise EvalError(
                f"{path}:{number}: got {line.strip()[:80]!r}, "
                "expected 'name score xmin ymin xmax ymax'"
            ) from None
        if name not in index_of:
            raise EvalError(f"{path}:{number}: photograph {name!r} is not in the split")
        numbers.extend((score, x1 - 1, y1 - 1, x2, y2))
        photographs.append(index_of[name])
        lines.append(number)
    table = np.array(numbers, dtype=np.float64).reshape(-1, 5)
    _check_finite(table, lambda row: f"{path}:{lines[row]}")
    return table, np.array(photographs, dtype=np.int64)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise EvalError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError:
        raise EvalError(f"{path}: not a text file in UTF-8") from None


def _parse_result(entry: dict[str, Any], where: str) -> list[float]:
    box = entry["bbox"]
    values = [entry["score"], *box] if isinstance(box, list) else []
    if len(values) != 5 or not all(type(value) in (int, float) for value in values):
        raise EvalError(f"{where}: expected a number as score, [x, y, width, height] as bbox")
    try:
        return [float(value) for value in values]
    except OverflowError:
        raise EvalError(f"{where}: score or box is not finite") from None


def _read_entries(path: Path) -> list[Any]:
    text = _read_text(path)
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise EvalError(f"{path}: not json: {error}") from None
    if not isinstance(entries, list):
        raise EvalError(f"{path}: got {type(entries).__name__}, expected a list of detections")
    return entries


def _look_up_image(
    entry: dict[str, Any],
    image_of: dict[int | str, int],
    aliases: Mapping[str, int | str],
    where: str,
) -> int:
    given = entry["image_id"]
    if type(given) is str and given not in image_of:
        name = PurePosixPath(given).name
        entry = {"image_id": aliases.get(given, aliases.get(name, given))}
    return _look_up(entry, "image_id", image_of, where)


def _look_up(entry: dict[str, Any], key: str, index_of: Mapping[Any, int], where: str) -> int:
    value = entry[key]
    if type(value) not in (int, str) or value not in index_of:
        raise EvalError(f"{where}: {key} {value!r} is not in the set")
    return index_of[value]


def _check_finite(table: np.ndarray, where: Any) -> None:
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        raise EvalError(f"{where(int(np.argmin(finite)))}: score or box is not finite")


def _check_names(names: Sequence[str]) -> None:
    if isinstance(names, str):
        raise EvalError(f"names: got the single string {names!r}, expected a list of names")
    for name in names:
        if not isinstance(name, str) or name.split() != [name]:
            raise EvalError(f"names: got {name!r}, expected names without white space")
    check_unique(names, "names")


def _check_ids(ids: Sequence[int | str], what: str) -> list[int | str]:
    """Return the ids as Python's own int and str, which json can write."""
    plain: list[int | str] = []
    for value in ids:
        if isinstance(value, bool) or not isinstance(value, (int, str, np.integer)):
            raise EvalError(f"{what}: got {value!r}, expected whole numbers or strings")
        plain.append(value if isinstance(value, str) else int(value))
    check_unique(plain, what)
    return plain


def _split(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    photographs: np.ndarray,
    count: int,
) -> list[Detections]:
    """Return one Detections per photograph, each in the order given."""
    order = np.argsort(photographs, kind="stable")
    cuts = np.searchsorted(photographs[order], np.arange(1, count))
    columns = [np.split(values[order], cuts) for values in (boxes, scores, labels)]
    return [Detections(*parts) for parts in zip(*columns, strict=True)][:count]
