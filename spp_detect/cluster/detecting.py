"""Detection in any number of photographs on a Ray cluster, each photograph once."""

from __future__ import annotations

import contextlib
import logging
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from data import DataError, read_photo
from data.folder import is_photograph, walk_files
from proposals import ProposalError, ProposalSettings, propose
from spp_detect.cluster.nodes import (
    MOST_DEATHS,
    ClusterError,
    check_versions,
    join_cluster,
    shorten,
)
from spp_detect.cluster.places import MissingFileError, Place, PlaceError
from spp_detect.cluster.shards import (
    Account,
    Manifest,
    Shard,
    ShardResults,
    cut_shards,
    has_entry,
)
from spp_detect.detector import PhotoDetector
from spp_detect.ensemble import load_detector
from spp_detect.heap import hand_back
from spp_detect.out_of_memory import ERRORS, is_out_of_memory, tell_out_of_memory
from spp_detect.progress import track
from spp_detect.provenance import find_version
from spp_detect.report.exports import round_box, write_line
from spp_detect.report.names import make_readable
from spp_detect.threads import set_threads

logger = logging.getLogger(__name__)

SHARD_PHOTOGRAPHS = 32  # at most
MOST_BLOCKS = 1000  # of Ray's: a shard each where they are fewer

Photo = NDArray[np.uint8]
Windows = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What every worker must know.

    Attributes
    ----------
    models : tuple of dict of str to bytes
        The files of each model, which travel: workers need no folder in common for them.
    weights : str, optional
        "imagenet", or a name among `weight_files`; for packed models.
    weight_files : dict of str to bytes
        A file of weights, or none.
    changes : dict
        Constants of test time.
    photographs, out : Place
        Every worker finds the same there.
    min_score, max_side : float, int
        As of `report_folder`.
    settings : ProposalSettings
        How windows are proposed.
    version : str or None
        Of the package, here.
    """

    models: tuple[dict[str, bytes], ...]
    weights: str | None
    weight_files: dict[str, bytes]
    changes: dict[str, Any]
    photographs: Place
    out: Place
    min_score: float
    max_side: int
    settings: ProposalSettings
    version: str | None

    @classmethod
    def describe(
        cls,
        models: Sequence[Path],
        weights: str | None,
        changes: dict[str, Any],
        places: tuple[Place, Place],
        min_score: float,
        max_side: int,
        settings: ProposalSettings,
    ) -> Task:
        """Read the files that must travel."""
        names = ("config.json", "model.safetensors")
        files = tuple({name: (model / name).read_bytes() for name in names} for model in models)
        given = Path(weights) if weights is not None else None
        weight_files = {given.name: given.read_bytes()} if given and given.is_file() else {}
        weights = given.name if given and weight_files else weights
        version = find_version("spp-detect")
        return cls(
            models=files,
            weights=weights,
            weight_files=weight_files,
            changes=changes,
            photographs=places[0],
            out=places[1],
            min_score=min_score,
            max_side=max_side,
            settings=settings,
            version=version,
        )

    def load(self, device: str) -> PhotoDetector:
        """Load the detector on a worker."""
        with tempfile.TemporaryDirectory() as folder:
            for number, files in enumerate((*self.models, self.weight_files)):
                (Path(folder) / str(number)).mkdir()
                for name, content in files.items():
                    (Path(folder) / str(number) / name).write_bytes(content)
            models = [Path(folder) / str(number) for number in range(len(self.models))]
            weights = self.weights
            if self.weight_files:
                weights = str(Path(folder) / str(len(self.models)) / str(self.weights))
            return load_detector(models, device, weights).change(**self.changes)


def detect_on_cluster(
    task: Task, identity: dict[str, Any], address: str, *, resume: bool = False
) -> Account:
    """Detect in all photographs of a folder, by all nodes of a cluster.

    Parameters
    ----------
    task : Task
        Models, folders, constants.
    identity : dict
        What decides what is found, by which a run that is gone on with is known.
    address : str
        Of a Ray cluster, as `ray.init` takes it, or "local".
    resume : bool
        Whether an earlier run is gone on with: what its manifest has is not done again.

    Returns
    -------
    Account
        How all photographs ended, those of an earlier start among them.

    Raises
    ------
    ClusterError
        For an address where no cluster is, a worker without this version of the package, or work
        that failed; what is done is kept.
    PlaceError
        For folders that cannot be read or written.
    LockError
        Where another run writes into the same local folder.
    """
    manifest = Manifest(task.out)
    photographs = list_photographs(task.photographs, task.out)
    identity = identity | {"photographs": task.photographs.root}
    with join_cluster(address), task.out.kept_from_others():
        check_versions(task.version)
        done = manifest.begin(identity, resume=resume)
        missing = [one for one in photographs if make_readable(one) not in done]
        _account_for_unreadable([one for one in missing if one != make_readable(one)], task.out)
        named = [one for one in missing if one == make_readable(one)]
        shards = cut_shards(named, size_shards(len(named), count_actors()))
        counts = work_on_shards(task, shards)
        progress = (i for count in counts for i in range(count))
        for _ in track(progress, "detection", sum(len(one.photographs) for one in shards)):
            pass
    return manifest.count()


def _account_for_unreadable(names: list[str], out: Place) -> None:
    """Account for photographs whose names Ray cannot send: they fail."""
    if not names:
        return
    results = ShardResults()
    for name in map(make_readable, names):
        results.fail(name, f"{name}: its name is not UTF-8; expected another, or no --ray")
    results.write(out, cut_shards([make_readable(one) for one in names], len(names))[0].name)


def list_photographs(photographs: Place, out: Place) -> list[str]:
    """List photographs by their paths below a folder, results that lie in it left out.

    Raises
    ------
    PlaceError
        For a folder that cannot be read, or without a photograph.
    """
    inside = f"{out.root[len(photographs.root) + 1 :]}/" if _lies_in(out, photographs) else None
    files = photographs.list_files()
    if photographs.is_local:  # fsspec follows no links to folders, which `detect` without Ray does
        root = Path(photographs.root)
        files = sorted({*files, *(path.relative_to(root).as_posix() for path in walk_files(root))})
    names = [
        name
        for name in files
        if is_photograph(Path(name)) and not any(part.startswith(".") for part in Path(name).parts)
    ]
    names = [name for name in names if inside is None or not name.startswith(inside)]
    if not names:
        raise PlaceError(f"{photographs.text}: holds no photograph; expected at least one")
    return names


def _lies_in(inner: Place, outer: Place) -> bool:
    return inner.system == outer.system and inner.root.startswith(f"{outer.root}/")


def count_gpus() -> int:
    """How many GPUs a cluster has."""
    return int(ray.cluster_resources().get("GPU", 0))


def count_actors() -> int:
    """How many actors may detect at once: one a GPU, or where there is none one a core."""
    return count_gpus() or max(1, int(ray.cluster_resources().get("CPU", 0)))


def size_shards(photographs: int, actors: int) -> int:
    """How many photographs a shard has: so many that all actors have as many shards.

    Examples
    --------
    Two actors do 200 photographs in four shards each; with shards of 32 one would do the eight of
    a seventh shard while the other waits.

    >>> size_shards(200, 2), size_shards(10, 4), size_shards(10_000_000, 64)
    (25, 3, 32)
    """
    rounds = max(1, -(-photographs // (SHARD_PHOTOGRAPHS * actors)))
    return max(1, -(-photographs // (rounds * actors)))


def work_on_shards(task: Task, shards: list[Shard]) -> Iterator[int]:
    """Do the shards on all nodes, and tell of each that is done how many photographs it has.

    Where there are GPUs, windows are proposed by the CPUs and the rest is done by an actor a GPU;
    else an actor a core does both.

    Raises
    ------
    ClusterError
        Where a shard cannot be done at all.
    """
    if not shards:
        return
    _set_up_ray_data()
    rows = [{"shard": one.name, "photographs": list(one.photographs)} for one in shards]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
    sent = ray.put(task)
    gpus = count_gpus()
    if gpus:
        dataset = dataset.map(ProposeInShard, fn_constructor_args=(sent,), concurrency=(1, 1024))
    # All begin at once: with one, Ray would see how far it gets while the others' cores wait.
    begun = min(len(shards), count_actors())
    pool = ray.data.ActorPoolStrategy(min_size=begun, max_size=gpus or None)
    wanted: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    # What was asked of an actor that is away for a while is asked again, as often as it takes.
    wanted |= {"max_restarts": MOST_DEATHS, "max_task_retries": -1}
    dataset = dataset.map(DetectInShard, fn_constructor_args=(sent,), compute=pool, **wanted)
    try:
        for row in dataset.iter_rows():
            yield int(row["photographs"])
    except Exception as error:  # of Ray's many kinds
        kept = f"what is done is in {task.out.text}, go on with --resume"
        raise ClusterError(f"a shard failed: {shorten(error)}; {kept}") from error


def _set_up_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    # Ray does not restart an actor that dies before it has begun; the pool may start others. Older
    # versions do not count such deaths.
    if hasattr(context, "max_consecutive_actor_init_deaths"):
        context.max_consecutive_actor_init_deaths = MOST_DEATHS
    context.wait_for_min_actors_s = -1  # older versions wait for those whose cores are busy
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class ProposeInShard:
    """Reads a shard's photographs and proposes their windows, on a core."""

    def __init__(self, sent: Any) -> None:
        set_threads(1)
        self.task: Task = ray.get(sent)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add windows to a row; the photographs, which are large, are read again by the GPU's."""
        windows = {}
        for name in map(str, row["photographs"]):
            with contextlib.suppress(DataError):  # whoever reads it again tells
                windows[name] = prepare(self.task, name)[1]
        return row | {"windows": pickle.dumps(windows)}


class DetectInShard:
    """Detects in a shard's photographs and writes what it found; an actor, which loads once."""

    def __init__(self, sent: Any) -> None:
        set_threads(1)
        self.task: Task = ray.get(sent)
        self.detector = self.task.load("auto" if ray.get_gpu_ids() else "cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do a shard, unless it was done before its actor was lost: how many photographs it has."""
        done = {"shard": row["shard"], "photographs": len(row["photographs"])}
        if has_entry(self.task.out, str(row["shard"])):
            return done
        results = ShardResults()
        # Our own, of `ProposeInShard`.
        windows = pickle.loads(row["windows"]) if "windows" in row else {}
        for name in map(str, row["photographs"]):
            try:
                self._detect(results, name, *prepare(self.task, name, windows.get(name)))
            except DataError as error:
                results.fail(name, str(error))
        results.write(self.task.out, str(row["shard"]))
        hand_back()
        return done

    def _detect(self, results: ShardResults, name: str, photo: Photo, windows: Windows) -> None:
        try:
            found = self.detector.detect(photo, windows)
        except ERRORS as error:
            if not is_out_of_memory(error):
                raise
            raise tell_out_of_memory(Path(name), photo) from error
        shown = found[found.scores >= self.task.min_score]
        likely = self.detector.find_probabilities(shown)
        chances = None if likely is None else likely.tolist()
        size, classes = (photo.shape[1], photo.shape[0]), self.detector.classes
        results.lines.append(write_line(name, size, shown, classes, chances))
        for i, (box, score, label) in enumerate(shown):
            values = name, classes[label], round(score, 5), *round_box(box)
            chance = None if chances is None else round(chances[i], 5)
            keys = ("photograph", "class", "score", "x1", "y1", "x2", "y2", "probability")
            results.rows.append(dict(zip(keys, (*values, chance), strict=True)))
        results.account.append((name, len(shown), ""))


def prepare(task: Task, name: str, windows: Windows | None = None) -> tuple[Photo, Windows]:
    """Read a photograph and propose its windows, where they are not given.

    Raises
    ------
    DataError
        For a photograph that cannot be had; it is told by its name.
    PlaceError
        Where the folder cannot be read, which is not the photograph's failure.
    """
    try:
        content = task.photographs.read(name)
    except MissingFileError as error:
        raise DataError(str(error)) from error
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"photograph{Path(name).suffix}"
        path.write_bytes(content)
        try:
            photo = read_photo(path, task.max_side)
        except DataError as error:
            raise DataError(str(error).replace(str(path), name)) from error
    try:
        return photo, propose(photo, task.settings) if windows is None else windows
    except ProposalError as error:
        raise DataError(f"{name}: {error}") from error
    except ERRORS as error:
        if not is_out_of_memory(error):
            raise
        raise tell_out_of_memory(Path(name), photo) from error
