"""Detection in any number of photographs on a Ray cluster, each photograph once."""

from __future__ import annotations

import json
import logging
import pickle
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data import DataError, read_photo
from data.folder import is_photograph
from proposals import ProposalError, propose
from spp_detect.cluster.places import Place, PlaceError
from spp_detect.cluster.shards import Account, Manifest, Shard, ShardResults, cut_shards
from spp_detect.detector import PhotoDetector
from spp_detect.ensemble import load_detector
from spp_detect.out_of_memory import ERRORS, is_out_of_memory, tell_out_of_memory
from spp_detect.progress import track
from spp_detect.provenance import find_version
from spp_detect.report.exports import round_box, write_line
from spp_detect.threads import count_cores, set_threads

logger = logging.getLogger(__name__)

LOCAL = "local"  # the address that starts a cluster of this machine alone
SHARD_PHOTOGRAPHS = 32
MOST_BLOCKS = 1000  # of Ray's: a shard each where they are fewer
ANSWER_SECONDS = 60.0  # in which a node tells its version

Photo = NDArray[np.uint8]
Windows = NDArray[np.float32]
Prepared = list[tuple[str, "tuple[Photo, Windows] | DataError"]]


class ClusterError(RuntimeError):
    """A cluster that cannot be used, or work on it that failed; one line says why."""


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
    ) -> Task:
        """Read the files that must travel."""
        names = ("config.json", "model.safetensors")
        files = tuple({name: (model / name).read_bytes() for name in names} for model in models)
        given = Path(weights) if weights is not None else None
        weight_files = {given.name: given.read_bytes()} if given and given.is_file() else {}
        weights = given.name if given and weight_files else weights
        version = find_version("spp-detect")
        return cls(files, weights, weight_files, changes, *places, min_score, max_side, version)

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
    """
    manifest = Manifest(task.out)
    photographs = list_photographs(task.photographs, task.out)
    with join_cluster(address):
        check_versions(task.version)
        done = manifest.begin(identity, resume=resume)
        shards = cut_shards([one for one in photographs if one not in done], SHARD_PHOTOGRAPHS)
        counts = work_on_shards(task, shards)
        progress = (i for count in counts for i in range(count))
        for _ in track(progress, "detection", sum(len(one.photographs) for one in shards)):
            pass
    return manifest.count()


def list_photographs(photographs: Place, out: Place) -> list[str]:
    """List photographs by their paths below a folder, results that lie in it left out.

    Raises
    ------
    PlaceError
        For a folder that cannot be read, or without a photograph.
    """
    inside = f"{out.root[len(photographs.root) + 1 :]}/" if _lies_in(out, photographs) else None
    names = [
        name
        for name in photographs.list_files()
        if is_photograph(Path(name)) and not any(part.startswith(".") for part in Path(name).parts)
    ]
    names = [name for name in names if inside is None or not name.startswith(inside)]
    if not names:
        raise PlaceError(f"{photographs.text}: holds no photograph; expected at least one")
    return names


def _lies_in(inner: Place, outer: Place) -> bool:
    return inner.system == outer.system and inner.root.startswith(f"{outer.root}/")


@contextmanager
def join_cluster(address: str) -> Iterator[None]:
    """Connect to a cluster, or start one of this machine's cores, until the work is done."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == LOCAL:
            ray.init(num_cpus=count_cores(), include_dashboard=False, **quiet)
        else:
            _knock(address)
            ray.init(address=address, **quiet)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        told = " ".join(str(error).split())
        raise ClusterError(
            f"--ray {address}: no cluster answers there ({told}); expected HOST:PORT of "
            f"`ray start --head`, auto, or {LOCAL}"
        ) from error
    try:
        _quiet_ray_data()
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Ask whether anything listens at HOST:PORT, where Ray itself would ask for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _quiet_ray_data() -> None:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


def check_versions(wanted: str | None) -> None:
    """Ask every node for its version of the package; ClusterError for one that has another."""

    def tell_version() -> str | None:  # not sent by its module's name: a worker may lack that
        from importlib.metadata import PackageNotFoundError, version

        import spp_detect  # noqa: F401

        try:
            return version("spp-detect")
        except PackageNotFoundError:
            return None

    ask = ray.remote(num_cpus=0, max_retries=0)(tell_version)
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[node["NodeManagerAddress"]] = ask.options(scheduling_strategy=there).remote()
    for name, answer in asked.items():
        try:
            found = ray.get(answer, timeout=ANSWER_SECONDS)
        except Exception as error:  # of Ray's many kinds
            told = str(error).strip().splitlines()[-1]
            raise ClusterError(
                f"worker {name}: spp-detect cannot be used there ({told})"
            ) from error
        if found != wanted:
            raise ClusterError(f"worker {name}: has spp-detect {found}; expected {wanted}, as here")


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
    rows = [{"shard": one.name, "photographs": list(one.photographs)} for one in shards]
    dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
    sent = ray.put(task)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus:
        dataset = dataset.map(ProposeInShard, fn_constructor_args=(sent,), concurrency=(1, 1024))
    pool = ray.data.ActorPoolStrategy(min_size=1, max_size=gpus or None)
    wanted: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    dataset = dataset.map(DetectInShard, fn_constructor_args=(sent,), compute=pool, **wanted)
    try:
        for row in dataset.iter_rows():
            yield int(row["photographs"])
    except Exception as error:  # of Ray's many kinds
        cause = str(getattr(error, "cause", error)).strip().splitlines()[-1]
        raise ClusterError(
            f"a shard failed: {cause}; what is done is in {task.out.text}, go on with --resume"
        ) from error


class ProposeInShard:
    """Reads a shard's photographs and proposes their windows, on a core."""

    def __init__(self, sent: Any) -> None:
        set_threads(1)
        self.task: Task = ray.get(sent)
        self.settings = self.task.load("cpu").proposal_settings

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Add what is prepared to a row."""
        names = [str(name) for name in row["photographs"]]
        prepared = [(name, prepare(self.task, name, self.settings)) for name in names]
        return {"shard": row["shard"], "prepared": pickle.dumps(prepared)}


class DetectInShard:
    """Detects in a shard's photographs and writes what it found; an actor, which loads once."""

    def __init__(self, sent: Any) -> None:
        set_threads(1)
        self.task: Task = ray.get(sent)
        self.detector = self.task.load("auto" if ray.get_gpu_ids() else "cpu")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do a shard: its name, and how many photographs it has."""
        results = ShardResults()
        for name, one in self._prepare(row):
            try:
                if isinstance(one, DataError):
                    raise one
                self._detect(results, name, *one)
            except DataError as error:
                line = {"photograph": name, "error": str(error)}
                results.lines.append(json.dumps(line))
                results.account.append((name, 0, str(error)))
        results.write(self.task.out, str(row["shard"]))
        return {"shard": row["shard"], "photographs": len(results.account)}

    def _prepare(self, row: dict[str, Any]) -> Prepared | Iterator[Any]:
        if "prepared" in row:
            prepared: Prepared = pickle.loads(row["prepared"])  # our own, of `ProposeInShard`
            return prepared
        settings = self.detector.proposal_settings
        return ((str(n), prepare(self.task, str(n), settings)) for n in row["photographs"])

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


def prepare(task: Task, name: str, settings: Any) -> tuple[Photo, Windows] | DataError:
    """Read a photograph and propose its windows; what cannot be read is told by its name."""
    try:
        content = task.photographs.read(name)
    except PlaceError as error:
        return DataError(str(error))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"photograph{Path(name).suffix}"
        path.write_bytes(content)
        try:
            photo = read_photo(path, task.max_side)
            return photo, propose(photo, settings)
        except (DataError, ProposalError) as error:
            return DataError(str(error).replace(str(path), name))
