"""What a run on all of VOC 2007 would take, by the rates of a run that was measured.

python benchmarks/training_cost.py RUN --out results/benchmarks/training_cost.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from timing import write_result

TRAINVAL = 5011  # photographs


def main() -> None:
    """Extrapolate and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a model folder whose training was not interrupted")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    metrics = json.loads((arguments.run / "metrics.json").read_text(encoding="utf-8"))
    factor = TRAINVAL / metrics["photographs"]
    hours: dict[str, float] = {}
    for stage in metrics["stages"]:
        hours[stage["stage"]] = hours.get(stage["stage"], 0) + stage["seconds"] * factor / 3600
    result = {
        "measured_photographs": metrics["photographs"],
        "measured_seconds": metrics["seconds"],
        "photographs": TRAINVAL,
        "hours": hours,
        "hours_in_all": sum(hours.values()),
        "disk_gb": metrics["disk_gb"] * factor,
        "measured_peak_memory_gb": metrics["record"]["peak_memory_gb"],
        "measured_on": metrics["record"],
    }
    write_result(arguments.out, result)
    parts = ", ".join(f"{name} {60 * h:.0f} min" for name, h in hours.items())
    print(
        f"all of VOC 2007: {result['hours_in_all']:.1f} h ({parts}), {result['disk_gb']:.1f} GB; "
        f"measured peak memory {result['measured_peak_memory_gb']:.1f} GB"
    )


if __name__ == "__main__":
    main()
