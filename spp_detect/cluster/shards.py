"""What a run on many machines leaves: shards of results, and a manifest of those that are whole.

A shard's two files are written first, its entry in the manifest after them. So each photograph
stands in the manifest once, done or failed, and what has no entry was never finished.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow
from pyarrow import parquet

from spp_detect.cluster.places import PART, Place, PlaceError
from spp_detect.lock import NAME as LOCK

SHARDS, MANIFEST, RUN = "shards", "manifest", "run.json"
COLUMNS = pyarrow.schema(
    [
        ("photograph", pyarrow.string()),
        ("class", pyarrow.string()),
        ("score", pyarrow.float32()),
        *((corner, pyarrow.float32()) for corner in ("x1", "y1", "x2", "y2")),
        ("probability", pyarrow.float32()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """Photographs that are done together.

    Attributes
    ----------
    name : str
        Made of theirs.
    photographs : tuple of str
        Paths below the folder.
    """

    name: str
    photographs: tuple[str, ...]


@dataclass
class ShardResults:
    """What was found in a shard's photographs.

    Attributes
    ----------
    lines : list of str
        Of json, one a photograph.
    rows : list of dict
        One a detection, by the names of `COLUMNS`.
    account : list of (photograph, detections, error)
        One a photograph; the error is empty where there was none.
    """

    lines: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    account: list[tuple[str, int, str]] = field(default_factory=list)

    def fail(self, photograph: str, error: str) -> None:
        """Note a photograph that failed, and why."""
        self.lines.append(json.dumps({"photograph": photograph, "error": error}))
        self.account.append((photograph, 0, error))

    def write(self, out: Place, name: str) -> None:
        """Write a shard, then its entry in the manifest; PlaceError where that cannot be."""
        out.write(f"{SHARDS}/{name}.jsonl", "".join(f"{x}\n" for x in self.lines).encode())
        table = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist(self.rows, COLUMNS), table)
        out.write(f"{SHARDS}/{name}.parquet", table.getvalue())
        entry = {"shard": name, "photographs": self.account}
        out.write(f"{MANIFEST}/{name}.json", json.dumps(entry).encode())


@dataclass(frozen=True)
class Account:
    """How photographs ended.

    Attributes
    ----------
    found, empty : int
        With and without detections.
    detections : int
        In all.
    failed : dict of str to str
        Why, by the photograph.
    """

    found: int
    empty: int
    detections: int
    failed: dict[str, str]

    @property
    def photographs(self) -> int:
        """All of them."""
        return self.found + self.empty + len(self.failed)

    def __str__(self) -> str:
        return (
            f"{self.photographs} photographs: {self.found} with {self.detections} detections, "
            f"{self.empty} without, {len(self.failed)} failed"
        )


def cut_shards(photographs: Sequence[str], size: int) -> list[Shard]:
    """Cut photographs into shards of a size, the last maybe smaller."""
    parts = [tuple(photographs[i : i + size]) for i in range(0, len(photographs), size)]
    return [Shard(hashlib.sha256("\n".join(p).encode()).hexdigest()[:20], p) for p in parts]


class Manifest:
    """The manifest of a folder of shards.

    Parameters
    ----------
    out : Place
        The folder.
    """

    def __init__(self, out: Place) -> None:
        self.out = out

    def begin(self, identity: dict[str, Any], *, resume: bool) -> set[str]:
        """Begin a run, or go on with one: the photographs that are done.

        Shards without an entry, which were cut off, are removed.

        Raises
        ------
        PlaceError
            For a folder that holds anything else, or results of another run.
        """
        identity = json.loads(json.dumps(identity))
        files = [name for name in self.out.list_files() if name != LOCK]
        if not resume:
            if files:
                told = "holds files; expected a new folder, or --resume to go on with its run"
                raise PlaceError(f"{self.out.text}: {told}")
            self.out.write(RUN, json.dumps(identity, indent=2).encode())
            return set()
        if RUN not in files:
            raise PlaceError(f"{self.out.text}: holds no run to go on with; expected {RUN}")
        if self._read(RUN) != identity:
            told = "the earlier run was of another model or other settings; expected the same"
            raise PlaceError(f"{self.out.text}: {told}")
        entries = _find_entries(files)
        whole = {_name_shard(name) for name in entries}
        for name in files:
            cut_off = _name_shard(name) not in whole or name.endswith(PART)
            if name.startswith((f"{SHARDS}/", f"{MANIFEST}/")) and cut_off:
                self.out.remove(name)
        return {name for one in map(self._read, entries) for name, *_ in one["photographs"]}

    def count(self) -> Account:
        """Count how all photographs ended; PlaceError where the manifest cannot be read."""
        found = empty = detections = 0
        failed = {}
        for one in map(self._read, _find_entries(self.out.list_files())):
            for name, count, error in one["photographs"]:
                if error:
                    failed[name] = error
                else:
                    found, empty = found + bool(count), empty + (not count)
                    detections += count
        return Account(found, empty, detections, failed)

    def _read(self, name: str) -> Any:
        try:
            return json.loads(self.out.read(name))
        except ValueError as error:
            raise PlaceError(f"{self.out.text}/{name}: damaged ({error}); expected json") from error


def has_entry(out: Place, name: str) -> bool:
    """Tell whether a shard has an entry, which is written when its files are."""
    return out.holds(f"{MANIFEST}/{name}.json")


def _find_entries(files: list[str]) -> list[str]:
    """Find the entries whose shards' files are there, too."""
    there = set(files)
    entries = [name for name in files if name.startswith(f"{MANIFEST}/") and name.endswith(".json")]
    return [
        entry
        for entry in entries
        if {f"{SHARDS}/{_name_shard(entry)}.{end}" for end in ("jsonl", "parquet")} <= there
    ]


def _name_shard(file: str) -> str:
    return file.rpartition("/")[2].partition(".")[0]
