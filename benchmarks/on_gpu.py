"""All that is to be tested and measured on a GPU, part by part; `make gpu` runs it.

    python benchmarks/on_gpu.py VOC WEIGHTS --out results/gpu

It runs with the Python that has torch, installs what else is missing and leaves torch as it is
(--wheels FOLDER where there is no network). A part that is done is not done again. --pack FOLDER
copies a set that is small enough to travel to such a machine, and measures nothing.
"""

from __future__ import annotations

import argparse
import configparser
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What a package is imported as, where not by its name.
MODULES = {
    "opencv-contrib-python-headless": "cv2",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "pyyaml": "yaml",
}
FOR_TESTS = ("pytest", "hypothesis")
KEPT = ("torch", "torchvision", "numpy", "triton")
PART_SECONDS = 540
PACKED = {"trainval": 120, "test": 120}  # photographs that travel
MOST_PACKED = 64e6  # bytes


@dataclass(frozen=True)
class Part:
    """A command that ends within minutes."""

    name: str
    command: list[str]


def list_parts(data: str, weights: str, run: str, out: Path) -> list[Part]:
    """List the parts, in an order in which each finds what it needs."""
    ours = [sys.executable, "-m", "spp_detect"]

    def script(name: str, *arguments: str) -> Part:
        path, leaves = ROOT / "benchmarks" / f"{name}.py", out / f"{name}.json"
        return Part(name, [sys.executable, str(path), *arguments, "--out", str(leaves)])

    tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    train = [*ours, "train", data, "--weights", weights, "--out", run, "--device", "cuda"]
    train += ["--resume"] if (Path(run) / "run.json").is_file() else []
    compare = [*ours, "benchmark", run, data, "--images", "20", "--device", "cuda"]
    return [
        Part("tests", [*tests, str(ROOT), f"--junit-xml={out / 'tests.xml'}"]),
        script("window_pooling"),
        Part("train", train),
        script("detection", run, data),
        script("finetuning", data, weights),
        Part("benchmark", [*compare, "--out", str(out / "benchmark")]),
    ]


def read_requirements() -> list[str]:
    """Read what setup.cfg asks for."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup["options"]["install_requires"].split()


def name_package(requirement: str) -> str:
    """A requirement's name without its versions."""
    return requirement.partition(">=")[0].partition("==")[0]


def find_missing(requirements: list[str]) -> list[str]:
    """Find the requirements whose module cannot be imported here."""
    names = {one: name_package(one) for one in requirements}
    return [one for one, name in names.items() if not find_spec(MODULES.get(name, name))]


def install(missing: list[str], wheels: Path | None) -> None:
    """Install packages beside what is there: no version of `KEPT` changes."""
    present = [name for name in KEPT if find_spec(name)]
    lines = [f"{name}=={importlib.import_module(name).__version__}" for name in present]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(lines))
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-c", constraints.name]
        command += ["--no-index", "--find-links", str(wheels)] if wheels else []
        subprocess.run([*command, *missing], check=True)


def do_part(part: Part, out: Path) -> dict[str, object]:
    """Run a part, its output into a file beside: status and seconds."""
    start = time.perf_counter()
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (out / f"{part.name}.log").open("w") as log:
        process = subprocess.Popen(
            part.command,
            env=os.environ | {"PYTHONPATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            status: int | str = process.wait(PART_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its children: the GPU is free then
            process.wait()
            status = f"stopped after {PART_SECONDS} seconds"
    return {"status": status, "seconds": round(time.perf_counter() - start, 1)}


def pack(data: Path, weights: Path, out: Path) -> None:
    """Copy the first photographs of a VOC set, and the weights; refuse what is too much."""
    for split, count in PACKED.items():
        names = (data / "ImageSets" / "Main" / f"{split}.txt").read_text().split()[:count]
        lists = out / "VOC" / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
            (out / "VOC" / folder).mkdir(exist_ok=True)
            for name in names:
                shutil.copy(data / folder / f"{name}.{suffix}", out / "VOC" / folder)
    shutil.copy(weights, out / weights.name)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > MOST_PACKED:
        sys.exit(f"{out}: {size / 1e6:.1f} MB; expected at most {MOST_PACKED / 1e6:.0f}")
    print(f"{out}: {size / 1e6:.1f} MB")


def main() -> None:
    """Pack, or install and run what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/gpu"))
    parser.add_argument("--run", default="runs/gpu", help="the model that is trained")
    parser.add_argument("--wheels", type=Path, help="where there is no network")
    parser.add_argument("--pack", type=Path, help="copy a small set here instead")
    arguments = parser.parse_args()
    if arguments.pack:
        return pack(arguments.data, arguments.weights, arguments.pack)
    if not find_spec("torch"):
        sys.exit(f"{sys.executable}: has no torch; expected the Python of a machine with a GPU")
    missing = find_missing([*read_requirements(), *FOR_TESTS])
    if missing:
        install(missing, arguments.wheels)
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU on this machine; expected an NVIDIA GPU and its driver")
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = arguments.out / "parts.json"
    done = json.loads(record.read_text()) if record.is_file() else {}
    parts = list_parts(str(arguments.data), str(arguments.weights), arguments.run, arguments.out)
    for part in parts:
        if done.get(part.name, {}).get("status") == 0:
            continue
        done[part.name] = do_part(part, arguments.out)
        print(f"{part.name}: {done[part.name]}", flush=True)
        record.write_text(json.dumps(done, indent=2) + "\n")
    metrics = Path(arguments.run) / "metrics.json"
    if metrics.is_file():
        shutil.copy(metrics, arguments.out / "train.json")
    sys.exit(0 if all(one["status"] == 0 for one in done.values()) else 2)


if __name__ == "__main__":
    main()
