"""Images a second of pretraining, beside the bound: the network alone on a batch that lies ready.

Both in turn, several times; with all images kept in memory, with each read anew, and with the
memory that a step frees handed back to the system.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from spp_detect.classification.config import ClassifierConfig
from spp_detect.classification.images import hold_out, open_images
from spp_detect.files import write_json
from spp_detect.heap import keeping_freed
from spp_detect.provenance import record_run
from spp_detect.training.pretraining import Batch, Pretrainer
from spp_detect.training.team import Team

PLENTY = 8_000_000_000


def time_steps(trainer: Pretrainer, batches: Iterator[Batch], first: int, count: int) -> float:
    """Seconds a step of some steps."""
    start = time.perf_counter()
    for step, batch in zip(range(first, first + count), batches, strict=False):
        trainer.learn(step, *batch)
    return (time.perf_counter() - start) / count


def measure(trainer: Pretrainer, steps: int, rounds: int) -> dict[str, Any]:
    """Measure reading and learning, and learning alone, in turn."""
    batches = trainer.read_ahead(0)
    # The first epoch fills the memory.
    time_steps(trainer, batches, 0, trainer.batches)
    ready = next(batches)
    whole, alone = [], []
    done = trainer.batches + 1
    for _ in range(rounds):
        whole.append(time_steps(trainer, batches, done, steps))
        alone.append(time_steps(trainer, itertools.repeat(ready), done, steps))
        done += steps
    size = trainer.config.batch
    ratios = [a / w for a, w in zip(alone, whole, strict=True)]
    return {
        "images_per_second": size / statistics.median(whole),
        "network_alone": size / statistics.median(alone),
        "share_of_the_bound": statistics.median(ratios),
        "rounds": [{"whole": w, "alone": a} for w, a in zip(whole, alone, strict=True)],
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="trainval")
    parser.add_argument("--out", type=Path, required=True, help="the .json to write")
    parser.add_argument("--backbone", default="zf5")
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    found = open_images(arguments.data, arguments.split)
    config = ClassifierConfig(
        arguments.backbone,
        sizes=(arguments.size,),
        batch=arguments.batch,
        epochs=1000,
        start="normed",
    )
    images, held_out = hold_out(found, config.held_out, config.seed)
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, memory, keeping in (
            ("freed memory handed back", PLENTY, contextlib.nullcontext),
            ("kept in memory", PLENTY, keeping_freed),
            ("read each time", 0, keeping_freed),
        ):
            team = Team(device=torch.device("cpu"))
            trainer = Pretrainer(config, images, held_out, Path(folder), team, memory)
            with keeping():
                told[name] = measure(trainer, arguments.steps, arguments.rounds)
    settings = {key: str(value) for key, value in vars(arguments).items()}
    told |= {"images": len(images), "settings": settings, "record": record_run()}
    write_json(arguments.out, told)


if __name__ == "__main__":
    main()
