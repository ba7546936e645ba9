"""Windows per second of fine-tuning, against what its matrix products alone would allow.

    python benchmarks/finetuning.py DATA WEIGHTS --out results/benchmarks/finetuning.json

The trunk is frozen; the maps of some photographs are cached first. Blocks of steps in all
directions, of steps in the space of principal components and of the former's bare products take
turns, so that drift hits all.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from timing import write_result

from data import LabelledSet, open_dataset
from spp_detect.backbones import Backbone, build_backbone, load_weights
from spp_detect.config import make_run_config
from spp_detect.features import choose_device
from spp_detect.threads import set_numba_threads, set_threads
from spp_detect.training.feature_cache import Resources
from spp_detect.training.finetuning import FineTuner
from spp_detect.training.run import SharedFiles, TrainingRun

BATCH = 128


def multiply(inputs: int, width: int, outputs: int, device: torch.device) -> float:
    """Seconds of one step's matrix products: forward, gradients of weights and of inputs."""
    sizes = [(inputs, width), (width, width), (width, outputs)]
    operands = [
        [torch.rand(shape, device=device) for shape in ((BATCH, a), (b, a), (BATCH, b))]
        for a, b in sizes
    ]
    start = now(device)
    for layer, (x, weight, gradient) in enumerate(operands):
        x @ weight.T
        gradient.T @ x
        if layer:  # nothing before fc6 learns
            gradient @ weight
    return now(device) - start


def now(device: torch.device) -> float:
    """The clock, after all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def make_tuner(
    folder: Path,
    dataset: LabelledSet,
    backbone: Backbone,
    device: torch.device,
    width: int,
    components: int = 0,
) -> FineTuner:
    """Make what fine-tunes, all that it reads ahead of it computed; both kinds share the maps."""
    config = make_run_config(
        finetune_iterations=10**6,
        feature="fc7",
        fc_width=width,
        fc_start="random",
        finetune_components=components,
    )
    shared = SharedFiles(folder / "proposals", folder / "maps")
    out = folder / f"run{components}"
    run = TrainingRun(out, dataset, config, backbone, Resources(device), shared=shared)
    table = run.propose()
    cache = run.open_cache(table)
    tuner = run.make_tuner(table, cache, run.find_components(cache))
    tuner.trunk.prepare(mirrored=tuner.sampler.mirrors)
    return tuner


def time_steps(tuner: FineTuner, start: int, count: int) -> float:
    """Seconds per step, batches read as in training."""
    with ThreadPoolExecutor(1, initializer=set_numba_threads) as worker:
        drawn = map(tuner.sampler.draw_batch, range(start, start + count + 1))
        batches = tuner.read_batches(worker, drawn)
        tuner.learn(start, next(batches))
        begun = now(tuner.device)
        for step, batch in enumerate(itertools.islice(batches, count), start + 1):
            tuner.learn(step, batch)
        return (now(tuner.device) - begun) / count


def profile(tuner: FineTuner, steps: int) -> dict[str, float]:
    """Seconds of the parts of a step, one after the other; in training the first runs beside."""
    parts: dict[str, list[float]] = {}
    device = tuner.device
    for step in range(steps):
        marks = [now(device)]
        batch = tuner.read(tuner.sampler.draw_batch(step))
        marks.append(now(device))
        tuner.network.train()
        loss = torch.nn.functional.cross_entropy(*tuner.score(batch))
        marks.append(now(device))
        tuner.optimiser.zero_grad()
        loss.backward()
        marks.append(now(device))
        tuner.optimiser.step()
        marks.append(now(device))
        names = ("read and pool", "forward", "backward", "update")
        for name, seconds in zip(names, np.diff(marks).tolist(), strict=True):
            parts.setdefault(name, []).append(seconds)
    return {name: float(np.median(values)) for name, values in parts.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("weights")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photographs", type=int, default=60)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--components", type=int, default=1024)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    set_threads()
    device = choose_device("auto")
    dataset = open_dataset(arguments.data, "trainval")
    dataset = dataclasses.replace(dataset, photographs=dataset.photographs[: arguments.photographs])
    with tempfile.TemporaryDirectory() as folder:
        backbone = build_backbone("resnet18")
        load_weights(backbone, arguments.weights)
        tuner = make_tuner(Path(folder), dataset, backbone, device, arguments.width)
        restricted = make_tuner(
            Path(folder), dataset, backbone, device, arguments.width, arguments.components
        )
        fc6 = tuner.fc.layers[0]
        sizes = (fc6.in_features, fc6.out_features, len(dataset.classes) + 1)
        time_steps(tuner, 0, 2)
        time_steps(restricted, 0, 2)
        multiply(*sizes, device)
        seconds: dict[str, list[float]] = {"step": [], "step_in_components": [], "products": []}
        for block in range(arguments.blocks):
            first, count = block * arguments.steps, arguments.steps
            seconds["step"].append(time_steps(tuner, first, count))
            seconds["step_in_components"].append(time_steps(restricted, first, count))
            products = [multiply(*sizes, device) for _ in range(arguments.steps)]
            seconds["products"].append(float(np.median(products)))
        parts = profile(tuner, arguments.steps)
    gain = float(np.median(np.array(seconds["step"]) / np.array(seconds["step_in_components"])))
    ratio = float(np.median(np.array(seconds["products"]) / np.array(seconds["step"])))
    result = {
        "windows_per_second": BATCH / float(np.median(seconds["step"])),
        "bound_windows_per_second": BATCH / float(np.median(seconds["products"])),
        "share_of_bound": ratio,
        "windows_per_second_in_components": BATCH / float(np.median(seconds["step_in_components"])),
        "times_as_fast_in_components": gain,
        "components": arguments.components,
        "seconds_per_step": seconds,
        "profile_seconds": parts,
        "sizes": sizes,
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    write_result(arguments.out, result)
    print(
        f"{result['windows_per_second']:.0f} windows/s, {ratio:.0%} of the products' bound; "
        f"{gain:.2f} times as fast in components; "
        + ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in parts.items())
    )


if __name__ == "__main__":
    main()
