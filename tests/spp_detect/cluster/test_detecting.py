"""Detection on a Ray cluster of two nodes on the loopback: everything once, whatever dies."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

import spp_detect.cluster  # noqa: F401, before Ray
from data import find_photographs

ray = pytest.importorskip("ray")
from pyarrow import parquet  # noqa: E402

from spp_detect.cluster import detecting  # noqa: E402
from spp_detect.cluster.detecting import (  # noqa: E402
    Task,
    count_actors,
    count_gpus,
    detect_on_cluster,
    size_shards,
)
from spp_detect.cluster.nodes import ClusterError, check_versions, join_cluster  # noqa: E402
from spp_detect.cluster.places import Place, PlaceError  # noqa: E402
from spp_detect.cluster.shards import cut_shards  # noqa: E402
from spp_detect.detector import make_proposal_settings  # noqa: E402
from spp_detect.lock import lock_folder  # noqa: E402
from spp_detect.model_folder import read_description  # noqa: E402
from spp_detect.provenance import find_version  # noqa: E402

PHOTOGRAPHS = 24
FEW = 2  # photographs of a shard here
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def s3(processes):
    """A server of S3 on the loopback; the variables that let everything find it."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    port = processes.find_port()
    server = processes.start(sys.executable, "-m", "moto.server", "-p", port)
    processes.wait_for(lambda: processes.answers(port), "moto")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            patch.setenv(name, value)
        yield
    processes.stop(server)


@pytest.fixture(scope="module")
def cluster(s3, make_cluster):
    return make_cluster()


@pytest.fixture(scope="module")
def photographs(small_set, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for i in range(PHOTOGRAPHS - 1):
        source = small_set.photographs[i % len(small_set)].path
        shutil.copy(source, folder / ("more" if i % 3 else "") / f"{i:02}.jpg")
    (folder / "spoilt.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(detecting, "SHARD_PHOTOGRAPHS", FEW)


def make_task(model, photographs, out, **changes):
    places = Place.find(photographs), Place.find(out)
    settings = make_proposal_settings(read_description(model).config)
    return Task.describe([model], None, changes, places, -5.0, 10_000, settings)


def read_lines(place):
    names = [name for name in place.list_files() if name.endswith(".jsonl")]
    return sorted(line for name in names for line in place.read(name).decode().splitlines())


def count_photographs(place):
    """How often each photograph stands in the manifest, and in the shards."""
    entries = [n for n in place.list_files() if n.startswith("manifest/")]
    account = [one for n in entries for one in json.loads(place.read(n))["photographs"]]
    lines = Counter(json.loads(line)["photograph"] for line in read_lines(place))
    return Counter(name for name, *_ in account), lines


def check_each_once(place):
    in_manifest, in_shards = count_photographs(place)
    assert len(in_manifest) == PHOTOGRAPHS and set(in_manifest.values()) == {1}
    assert in_shards == in_manifest


@pytest.fixture(scope="module")
def alone(small_model, photographs):
    """What `detect --out -` writes of the same, on one machine without Ray."""
    command = [sys.executable, "-m", "spp_detect", "detect", str(small_model), str(photographs)]
    command += ["--out", "-", "--min-score", "-5", "--device", "cpu", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    return sorted(done.stdout.splitlines())


def drop_errors(lines):
    return [line for line in lines if '"error"' not in line]


@pytest.mark.parametrize("actors", [1, 2, 3, 64])
@pytest.mark.parametrize("photographs", [0, 1, 2, 63, 64, 65, 200, 4952])
def test_all_actors_have_as_many_shards(monkeypatch, photographs, actors):
    monkeypatch.setattr(detecting, "SHARD_PHOTOGRAPHS", 32)
    shards = cut_shards([str(i) for i in range(photographs)], size_shards(photographs, actors))
    sizes = [len(shard.photographs) for shard in shards]
    assert sum(sizes) == photographs and max(sizes, default=0) <= 32
    rounds = max(1, math.ceil(photographs / 32 / actors))  # the fewest there can be
    assert len(sizes) <= rounds * actors
    # But for one photograph a shard the busiest does no more than its part.
    assert rounds * max(sizes, default=0) < photographs / actors + rounds


def test_finds_what_one_machine_finds(cluster, small_model, photographs, alone, tmp_path):
    task = make_task(small_model, photographs, tmp_path / "out")
    account = detect_on_cluster(task, {"a": 1}, cluster.address)
    assert (account.photographs, list(account.failed)) == (PHOTOGRAPHS, ["spoilt.jpg"])
    assert "spoilt.jpg: not a photograph" in account.failed["spoilt.jpg"]
    lines = read_lines(task.out)
    assert drop_errors(lines) == drop_errors(alone) and len(lines) == len(alone)
    check_each_once(task.out)
    tables = [
        parquet.read_table(p).to_pylist() for p in (tmp_path / "out/shards").glob("*.parquet")
    ]
    rows = [row for table in tables for row in table]
    assert len(rows) == account.detections > 0
    (first,) = [json.loads(line) for line in lines if '"00.jpg"' in line]
    own = [row for row in rows if row["photograph"] == "00.jpg"]
    assert [row["class"] for row in own] == [one["class"] for one in first["detections"]]
    corners = [[row[k] for k in ("x1", "y1", "x2", "y2")] for row in own]
    assert corners == [pytest.approx(one["box"], abs=1e-4) for one in first["detections"]]


def test_from_and_into_a_bucket(cluster, small_model, photographs, alone):
    import s3fs

    s3fs.S3FileSystem().mkdir("given")
    s3fs.S3FileSystem().mkdir("got")
    s3fs.S3FileSystem().put(str(photographs), "given/photos", recursive=True)
    task = make_task(small_model, "s3://given/photos", "s3://got/run")
    detect_on_cluster(task, {}, cluster.address)
    assert drop_errors(read_lines(task.out)) == drop_errors(alone)
    check_each_once(task.out)


DRIVER = """
import sys
from pathlib import Path
from spp_detect.cluster import detecting
from spp_detect.cluster.places import Place
from spp_detect.detector import make_proposal_settings
from spp_detect.model_folder import read_description

model, photographs, out, address, few = sys.argv[1:]
detecting.SHARD_PHOTOGRAPHS = int(few)
places = Place.find(photographs), Place.find(out)
settings = make_proposal_settings(read_description(Path(model)).config)
task = detecting.Task.describe([Path(model)], None, {}, places, -5.0, 10_000, settings)
detecting.detect_on_cluster(task, {}, address)
"""


def test_a_run_that_is_killed_goes_on(
    cluster, processes, small_model, photographs, alone, tmp_path
):
    out = tmp_path / "out"
    words = [small_model, photographs, out, cluster.address, FEW]
    driver = processes.start(sys.executable, "-c", DRIVER, *words)
    manifest = out / "manifest"
    processes.wait_for(lambda: len([*manifest.glob("*.json")]) >= 2, "two shards")
    processes.stop(driver)
    time.sleep(2)  # what its actors had begun may still be finished
    done = {path: path.stat().st_mtime_ns for path in manifest.iterdir()}
    assert len(done) < PHOTOGRAPHS / FEW
    (out / "shards" / "0123.jsonl").write_text('{"photograph": "00.jpg"}\n')  # cut off
    task = make_task(small_model, photographs, out)
    with pytest.raises(PlaceError, match="holds files; expected a new folder, or --resume"):
        detect_on_cluster(task, {}, cluster.address)
    with pytest.raises(PlaceError, match="another model or other settings"):
        detect_on_cluster(task, {"other": 1}, cluster.address, resume=True)
    detect_on_cluster(task, {}, cluster.address, resume=True)
    check_each_once(task.out)
    assert drop_errors(read_lines(task.out)) == drop_errors(alone)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in done.items())
    assert detect_on_cluster(task, {}, cluster.address, resume=True).photographs == PHOTOGRAPHS


@pytest.mark.parametrize("what", ["actor", "node"])
def test_what_is_lost_is_made_good(cluster, small_model, photographs, alone, tmp_path, what):
    out = tmp_path / "out"
    task = make_task(small_model, photographs, out)
    counts = []

    def kill_after_two(task, shards, work=detecting.work_on_shards):
        for count in work(task, shards):
            counts.append(count)
            if len(counts) == 2:
                if what == "node":
                    cluster.remove_node()
                else:
                    os.kill(cluster.find_workers("DetectInShard")[0], signal.SIGKILL)
                assert len(list((out / "manifest").iterdir())) < PHOTOGRAPHS / FEW
            yield count

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detecting, "work_on_shards", kill_after_two)
        account = detect_on_cluster(task, {}, cluster.address)
    assert account.photographs == PHOTOGRAPHS
    check_each_once(task.out)
    assert drop_errors(read_lines(task.out)) == drop_errors(alone)
    if what == "node":
        cluster.wait_for_nodes()
        cluster.add_node()


def test_a_place_that_is_full_ends_in_one_line(cluster, small_model, photographs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    task = make_task(small_model, photographs, out)

    def block(task, shards, work=detecting.work_on_shards):
        (out / "shards").write_text("in the way")  # as a full disk: nothing can be written
        yield from work(task, shards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detecting, "work_on_shards", block)
        with pytest.raises(ClusterError) as caught:
            detect_on_cluster(task, {}, cluster.address)
    assert "go on with --resume" in str(caught.value) and "\n" not in str(caught.value)
    (out / "shards").unlink()
    detect_on_cluster(task, {}, cluster.address, resume=True)
    check_each_once(task.out)


def test_where_there_are_gpus_cores_propose_for_them(
    s3, small_model, photographs, alone, tmp_path, monkeypatch
):
    """Ray is told of a GPU that torch does not see."""
    begin = ray.init
    monkeypatch.setattr(ray, "init", lambda **options: begin(**options, num_gpus=1))
    task = make_task(small_model, photographs, tmp_path / "out")
    detect_on_cluster(task, {}, "local")
    check_each_once(task.out)
    assert drop_errors(read_lines(task.out)) == drop_errors(alone)


def test_a_node_that_dies_while_it_is_asked_is_passed_over(cluster, monkeypatch, caplog):
    every = ray.nodes

    def nodes():
        gone = every()[0] | {"NodeID": "0" * 56, "NodeManagerAddress": "gone"}
        return [gone, *every()]

    monkeypatch.setattr(ray, "nodes", nodes)
    with join_cluster(cluster.address):
        check_versions(find_version("spp-detect"))
    assert [one for one in caplog.messages if "gone: is no longer there" in one]


def test_actors_that_die_again_and_again_end_the_run(cluster, small_model, photographs, tmp_path):
    """As a photograph does that kills the process of whoever reads it."""
    task, ended = make_task(small_model, photographs, tmp_path / "out"), threading.Event()

    def kill_all():
        while not ended.wait(0.05):
            for pid in cluster.find_workers("DetectInShard"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_all)
    killer.start()
    try:
        with pytest.raises(ClusterError, match=r"a shard failed: .*go on with --resume"):
            detect_on_cluster(task, {}, cluster.address)
    finally:
        ended.set()
        killer.join()
    assert detect_on_cluster(task, {}, cluster.address, resume=True).photographs == PHOTOGRAPHS


@pytest.fixture
def strange(photographs, tmp_path):
    """A few photographs, and files that are none or cannot be named."""
    folder = tmp_path / "strange::folder"
    folder.mkdir()
    for name in ("00.jpg", "03.jpg", "06.jpg"):
        shutil.copy(photographs / name, folder)
    os.mkfifo(folder / "pipe.jpg")
    (folder / "lost.jpg").symlink_to(folder / "nothing")
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes((folder / "00.jpg").read_bytes())
    return folder


def test_strange_files_are_failures_of_their_own(cluster, small_model, strange, tmp_path):
    task = make_task(small_model, strange, tmp_path / "out::put")
    account = detect_on_cluster(task, {}, cluster.address)
    assert account.found + account.empty == 3 and (tmp_path / "out::put").is_dir()
    told = {"caf\\xe9.jpg": "not UTF-8", "pipe.jpg": "no such file", "lost.jpg": "no such file"}
    assert account.failed.keys() == told.keys()
    assert all(words in account.failed[name] for name, words in told.items())
    again = detect_on_cluster(task, {}, cluster.address, resume=True)
    assert again == account


def test_links_to_folders_are_followed_as_without_ray(strange, photographs, tmp_path):
    (strange / "more").symlink_to(photographs)
    (strange / ".hidden").symlink_to(photographs)
    (strange / "more.jpg").mkdir()
    names = detecting.list_photographs(Place.find(strange), Place.find(tmp_path / "out"))
    plain = {path.relative_to(strange).as_posix() for path in find_photographs(strange)}
    assert set(names) == plain | {"pipe.jpg"} and sorted(names) == names
    assert "more/03.jpg" in names
    one = Place.find(strange / "00.jpg")
    assert detecting.list_photographs(one, Place.find(tmp_path / "out")) == ["00.jpg"]


def test_a_worker_that_does_not_find_the_folder_is_no_photographs_failure(
    cluster, small_model, photographs, tmp_path
):
    gone, out = tmp_path / "gone", tmp_path / "out"
    shutil.copytree(photographs, gone)
    task = make_task(small_model, gone, out)

    def hide(task, shards, work=detecting.work_on_shards):
        gone.rename(tmp_path / "elsewhere")
        yield from work(task, shards)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detecting, "work_on_shards", hide)
        with pytest.raises(ClusterError, match="no such folder"):
            detect_on_cluster(task, {}, cluster.address)
    (tmp_path / "elsewhere").rename(gone)
    account = detect_on_cluster(task, {}, cluster.address, resume=True)
    assert list(account.failed) == ["spoilt.jpg"]


def test_an_actor_a_core_detects_where_there_are_no_gpus(cluster):
    with join_cluster(cluster.address):
        assert (count_actors(), count_gpus()) == (2, 0)


def test_a_worker_with_another_version_is_told(cluster):
    told = r"worker .*: has spp-detect .*; expected 9\.9"
    with join_cluster(cluster.address), pytest.raises(ClusterError, match=told):
        check_versions("9.9")


@pytest.mark.parametrize(
    ("photographs", "words"),
    [
        ("s3://nobodys/photos", "holds no photograph|cannot be read"),
        ("ftq://host/photos", "ftq"),
        ("nowhere", "holds no photograph|cannot be read"),
    ],
)
def test_photographs_that_are_not_there(s3, small_model, photographs, words, tmp_path):
    with pytest.raises(PlaceError, match=words) as caught:
        task = make_task(small_model, photographs, tmp_path / "out")
        detect_on_cluster(task, {}, "local")
    assert "\n" not in str(caught.value)


def run_command(*words, **variables):
    command = [sys.executable, "-m", "spp_detect", *map(str, words)]
    environment = os.environ | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_local_is_a_cluster_of_its_own_whatever_there_is(small_model, photographs, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(photographs / "00.jpg", few)
    words = "detect", small_model, few, "--out", tmp_path / "out", "--ray", "local"
    done = run_command(*words, RAY_ADDRESS="127.0.0.1:1")
    assert done.returncode == 0 and done.stdout.startswith("1 photographs: "), done.stderr


def test_an_address_without_a_cluster(processes, small_model, photographs, tmp_path):
    words = "detect", small_model, photographs, "--out", tmp_path / "out"
    done = run_command(*words, "--ray", f"127.0.0.1:{processes.find_port()}")
    assert done.returncode == 2 and "no cluster answers there" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "out").exists()


def test_two_runs_do_not_write_into_one_folder(cluster, small_model, photographs, tmp_path):
    out = tmp_path / "out"
    words = "detect", small_model, photographs, "--out", out, "--ray", cluster.address
    with lock_folder(out):
        done = run_command(*words)
    assert done.returncode == 2 and f"{out}: another run works there" in done.stderr
    assert [path.name for path in out.iterdir()] == [".lock"]


def test_urls_are_for_ray(small_model, tmp_path):
    done = run_command("detect", small_model, "s3://given", "--out", tmp_path / "out")
    assert done.returncode == 2 and "expected URLs with --ray only" in done.stderr


def test_the_command(cluster, small_model, photographs, tmp_path):
    words = "detect", small_model, photographs, "--out", tmp_path / "out"
    done = run_command(*words, "--min-score", "-5", "--ray", cluster.address)
    assert done.returncode == 2 and "skipped: spoilt.jpg" in done.stderr
    assert done.stdout.startswith(f"{PHOTOGRAPHS} photographs: ") and ", 1 failed;" in done.stdout
