"""A model's trunk by torch, as the detector runs it, beside onnxruntime and OpenVINO.

python benchmarks/engines.py RUN --out results/benchmarks/engines.json

OpenVINO is no requirement of this program: pip install openvino.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import openvino
import torch
from numpy.typing import NDArray
from timing import find_ratio, time_in_turns, write_result

from spp_detect import Detector
from spp_detect.export import TRUNK, export_onnx
from spp_detect.inference_copy import InferenceCopy

SIZE = (688, 917)  # height and width of a resized photograph
ENGINES = {"torch bfloat16": "bfloat16", "torch float32": "float32"}
HINTS = {"OpenVINO bfloat16": "bf16", "OpenVINO float32": "f32"}

Compute = Callable[[], Any]


def list_engines(
    detector: Detector, path: Path, photo: NDArray[np.uint8], threads: int
) -> dict[str, Compute]:
    """Make what each engine computes of a photograph, normalisation included."""
    backbone = detector.extractor.backbone
    work: dict[str, Compute] = {}
    for name, precision in ENGINES.items():
        trunk = InferenceCopy(backbone.layers, precision)
        work[name] = lambda trunk=trunk: trunk(
            backbone.normalise(photo).contiguous(memory_format=torch.channels_last)
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    work["onnxruntime float32"] = lambda: session.run(None, {"photo": photo})
    for name, kind in HINTS.items():
        settings = {"INFERENCE_PRECISION_HINT": kind, "INFERENCE_NUM_THREADS": threads}
        settings |= {"PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        work[name] = lambda compiled=compiled: compiled([photo])
    return work


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="model folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    detector = Detector.load(arguments.run, "cpu")
    threads = torch.get_num_threads()
    photo = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        export_onnx(detector, Path(folder))
        work = list_engines(detector, Path(folder) / TRUNK, photo, threads)
        seconds = time_in_turns(work, arguments.rounds)
    result = {
        "times_as_long_as_torch_bfloat16": {
            name: find_ratio(seconds, name, "torch bfloat16") for name in work
        },
        "seconds": seconds,
        "backbone": detector.config.backbone,
        "size": [*SIZE[::-1]],
        "threads": threads,
    }
    write_result(arguments.out, result)
    for name, ratio in result["times_as_long_as_torch_bfloat16"].items():
        print(f"{name}: {ratio:.2f} times as long as torch in bfloat16")


if __name__ == "__main__":
    main()
