"""Throw damaged files at every reader: each answers with a result or the project's own error.

Coverage-guided (atheris, libFuzzer), from a few small sound files of each kind. A run of a kind is
a process of its own; an error of another kind ends it, and its input is kept.

    python benchmarks/fuzzing.py --runs 1000000 --out results/benchmarks/fuzzing.json
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["data", "eval", "proposals", "spp_detect.model_folder"]):
    from data import DataError, open_dataset, read_photo
    from eval import EvalError, read_coco_results, read_comp
    from proposals import ProposalError, load_boxes
    from spp_detect.config import Config, TrainingConfig
    from spp_detect.model_folder import Description, ModelError, read_description, save_model

import numpy as np
import scipy.io
import torch
import yaml
from PIL import Image
from torch import nn

from spp_detect.files import write_json
from spp_detect.model_folder import load_tensors
from spp_detect.provenance import record_run

# Of each kind its share of all runs; photographs take the longest.
SHARES = {
    "photograph": 0.1,
    "voc": 0.2,
    "coco": 0.1695,
    "yolo": 0.2,
    "yaml": 0.1,
    "boxes": 0.05,
    "matlab": 0.0005,  # each in a process of its own
    "results": 0.08,
    "comp": 0.08,
    "description": 0.01,
    "tensors": 0.01,
}
OWN = (DataError, EvalError, ProposalError, ModelError)
LARGEST = 4096  # bytes of an input

VOC = (
    "<annotation><object><name>cat</name><difficult>0</difficult><bndbox><xmin>2</xmin>"
    "<ymin>3</ymin><xmax>20</xmax><ymax>19</ymax></bndbox></object></annotation>"
)
COCO = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [2, 3, 9, 9], "iscrowd": 0}],
    "categories": [{"id": 3, "name": "cat"}],
}
RESULTS = [{"image_id": 1, "category_id": 3, "bbox": [2, 3, 9, 9], "score": 0.5, "category": "cat"}]
YAML = {"path": ".", "train": "images", "val": ["images"], "names": {0: "cat", 1: "dog"}}


class Small(nn.Module):
    """Some tensors, as a model folder holds them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)


def make_photographs() -> list[bytes]:
    """Encode a small picture in every kind."""
    picture = Image.effect_noise((24, 20), 60).convert("RGB")
    kinds = ("jpeg", "png", "bmp", "gif", "webp", "tiff", "ppm", "jpeg2000")
    encoded = []
    for kind in kinds:
        stream = io.BytesIO()
        picture.save(stream, kind)
        encoded.append(stream.getvalue())
    return encoded


def make_boxes() -> list[bytes]:
    """Write boxes as .npz, plainly, and as a zip of one entry."""
    stream, zipped = io.BytesIO(), io.BytesIO()
    np.savez(stream, names=np.array(["a"]), counts=np.array([1]), boxes=np.ones((1, 4), "f4"))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("boxes.npy", b"no array")
    return [stream.getvalue(), zipped.getvalue()]


def make_matlab() -> list[bytes]:
    """Write boxes as Matlab does."""
    cells = np.empty((1, 1), object)
    cells[0, 0] = np.array([[3.0, 2.0, 9.0, 9.0]])
    names = np.empty((1, 1), object)
    names[0, 0] = "a"
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"boxes": cells, "images": names})
    return [stream.getvalue()]


def make_model(folder: Path) -> dict[str, list[bytes]]:
    """Save a model folder: the bytes of its two files."""
    save_model(folder, Small(), Description(Config(), TrainingConfig(), ("cat",)))
    names = {"description": "config.json", "tensors": "model.safetensors"}
    return {kind: [(folder / name).read_bytes()] for kind, name in names.items()}


def make_corpus(folder: Path) -> dict[str, list[bytes]]:
    """Make the sound inputs of each kind."""
    return {
        "photograph": make_photographs(),
        "voc": [VOC.encode()],
        "coco": [json.dumps(COCO).encode()],
        "yolo": [b"0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.1 0.2 0.5\n"],
        "yaml": [yaml.safe_dump(YAML).encode(), b"names: [cat, dog]\ntrain: images\n"],
        "boxes": make_boxes(),
        "matlab": make_matlab(),
        "results": [json.dumps(RESULTS).encode()],
        "comp": [b"a 0.5 1 2 9 9\nb -0.25 3 3 8 9.5\n"],
        **make_model(folder / "model"),
    }


def make_readers(folder: Path) -> dict[str, Callable[[bytes], object]]:
    """Make what reads each kind's bytes, from files in a folder."""
    for name in ("voc", "coco", "yolo/images", "yolo/labels", "yaml/images", "yaml/labels", "comp"):
        (folder / name).mkdir(parents=True)
    for name in ("voc", "coco", "yolo/images", "yaml/images"):
        Image.new("RGB", (30, 24)).save(folder / name / "a.png")
    (folder / "yolo" / "classes.txt").write_text("cat\ndog\n")
    make_model(folder / "model")
    model = Small()

    def read(place: str, reader: Callable[[Path], object]) -> Callable[[bytes], object]:
        path = folder / place

        def read_bytes(content: bytes) -> object:
            path.write_bytes(content)
            return reader(path)

        return read_bytes

    return {
        "photograph": read("photograph.jpg", read_photo),
        "voc": read("voc/a.xml", lambda path: open_dataset(path.parent, "all")),
        "coco": read("coco/labels.json", lambda path: open_dataset(path, "all")),
        "yolo": read("yolo/labels/a.txt", lambda path: open_dataset(folder / "yolo", "all")),
        "yaml": read("yaml/data.yaml", lambda path: open_dataset(path, "train")),
        "boxes": read("boxes.npz", load_boxes),
        "matlab": read("boxes.mat", load_boxes),
        "results": read(
            "results.json", lambda path: read_coco_results(path, [1, 2], [3], ["cat"], {})
        ),
        "comp": read(
            "comp/comp4_det_test_cat.txt", lambda path: read_comp(path.parent, ["a", "b"], ["cat"])
        ),
        "description": read("model/config.json", lambda path: read_description(path.parent)),
        "tensors": read("model/model.safetensors", lambda path: load_tensors(path.parent, model)),
    }


def fuzz(kind: str, runs: int, folder: Path) -> None:
    """Fuzz one kind in this process, which libFuzzer ends."""
    corpus = folder / "corpus"
    corpus.mkdir()
    for i, content in enumerate(make_corpus(folder / "made")[kind]):
        (corpus / str(i)).write_bytes(content)
    reader = make_readers(folder / "read")[kind]

    def test(content: bytes) -> None:
        try:
            reader(content)
        except OWN as error:
            assert "\n" not in str(error), "an error of several lines"

    options = [f"-runs={runs}", f"-max_len={LARGEST}", "-timeout=20", "-rss_limit_mb=4096"]
    options += [f"-artifact_prefix={folder}/", "-print_final_stats=1", "-seed=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test)
    atheris.Fuzz()


def fuzz_apart(kind: str, runs: int, kept: Path) -> dict[str, object]:
    """Fuzz one kind in a process of its own: how many inputs, and what went wrong."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as name:
        begun = time.monotonic()
        command = [sys.executable, __file__, "--kind", kind, "--runs", str(runs), "--folder", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        units = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        bad = [path for path in Path(name).iterdir() if re.match("(crash|timeout|oom)-", path.name)]
        for path in bad:
            kept.mkdir(parents=True, exist_ok=True)
            (kept / f"{kind}-{path.name}").write_bytes(path.read_bytes())
    return {
        "inputs": int(units.group(1)) if units else 0,
        "status": done.returncode,
        "kept": [path.name for path in bad],
        "last": done.stderr.strip().splitlines()[-1:] if done.returncode else [],
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> None:
    """Fuzz all kinds, or one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs, of all kinds together")
    parser.add_argument("--out", type=Path, help="the .json to write")
    parser.add_argument("--kept", type=Path, default=Path("runs/fuzzing"), help="bad inputs")
    parser.add_argument("--kind", choices=list(SHARES), help="this one only, in this process")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, with --kind")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.folder:
        fuzz(asked.kind, asked.runs, asked.folder)
        return
    kinds = [asked.kind] if asked.kind else list(SHARES)
    share = {kind: 1.0 if asked.kind else SHARES[kind] for kind in kinds}
    found = {}
    for kind in kinds:
        found[kind] = fuzz_apart(kind, round(asked.runs * share[kind]), asked.kept)
        print(kind, found[kind], flush=True)
    total = sum(one["inputs"] for one in found.values())
    print(f"{total} inputs, {sum(one['status'] != 0 for one in found.values())} kinds failed")
    if asked.out:
        write_json(asked.out, {"inputs": total, "kinds": found, "record": record_run()})
    sys.exit(any(one["status"] for one in found.values()))


if __name__ == "__main__":
    main()
