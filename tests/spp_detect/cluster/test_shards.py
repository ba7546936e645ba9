"""Shards that are whole are not done again, and what was cut off goes; without a cluster."""

import json
from pathlib import Path

import pytest

import spp_detect.cluster  # noqa: F401, before Ray

pytest.importorskip("ray")

from spp_detect.cluster.detecting import DetectInShard
from spp_detect.cluster.places import Place
from spp_detect.cluster.shards import Manifest, ShardResults, cut_shards, has_entry


@pytest.fixture(params=["folder", "memory"])
def out(request, tmp_path):
    """A new folder of the disk, and of another of fsspec's file systems."""
    kept = tmp_path / "out"
    return Place.find(kept if request.param == "folder" else f"memory://{tmp_path.name}")


def test_a_shard_that_is_done_is_not_done_again(out):
    """As when an actor dies after it, and Ray does all of its block again."""
    (shard,) = cut_shards(["a.jpg", "b.jpg"], 2)
    results = ShardResults()
    results.account = [("a.jpg", 3, ""), ("b.jpg", 0, "")]
    assert not has_entry(out, shard.name)
    results.write(out, shard.name)
    assert has_entry(out, shard.name)
    actor = DetectInShard.__new__(DetectInShard)  # without a detector: it has nothing to do
    actor.task = type("Task", (), {"out": out})()
    row = {"shard": shard.name, "photographs": list(shard.photographs)}
    assert actor(row) == {"shard": shard.name, "photographs": 2}


def test_what_was_cut_off_goes_and_what_is_whole_stays(tmp_path):
    out = Place.find(tmp_path / "out")
    manifest = Manifest(out)
    assert manifest.begin({"model": 1}, resume=False) == set()
    done, cut = cut_shards(["a.jpg", "b.jpg"], 1)
    results = ShardResults()
    results.account = [("a.jpg", 1, "")]
    results.write(out, done.name)
    whole = out.list_files()
    for name in (f"{cut.name}.jsonl", f"{done.name}.parquet.0f.part", f"{cut.name}.jsonl.1e.part"):
        (tmp_path / "out" / "shards" / name).write_bytes(b"cut")
    assert manifest.begin({"model": 1}, resume=True) == {"a.jpg"}
    assert out.list_files() == whole
    entry = json.loads(Path(tmp_path / "out" / "manifest" / f"{done.name}.json").read_text())
    assert entry["photographs"] == [["a.jpg", 1, ""]]
