"""Pages of a training run and of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spp_detect.files import write_text
from spp_detect.report.page import Figure, Section, Table, render_page
from spp_detect.report.terminal import sum_up_paper_stages

PAGE = "index.html"


def write_training_page(
    run: Path,
    numbers: dict[str, Any],
    boxes: dict[str, int],
    constants: dict[str, Any],
    history: Sequence[dict[str, float]] = (),
) -> None:
    """Write the page of a training run: its stages and times, what it learnt from, its constants.

    Parameters
    ----------
    run : Path
        The run's folder, which gets index.html.
    numbers : dict
        Those of metrics.json.
    boxes : dict of str to int
        Boxes learnt from, by class.
    constants : dict
        Of the model and of the training.
    history : sequence of dict
        Of fine-tuning, where there was any.
    """
    stages = [(one["stage"], f"{one['seconds']:.1f}") for one in numbers["stages"]]
    sections: list[Section] = [
        ("Stages", Table(("stage", "seconds"), stages)),
        ("Boxes learnt from", Table(("class", "boxes"), [(k, str(n)) for k, n in boxes.items()])),
    ]
    if history:
        rows = [[f"{value:g}" for value in row.values()] for row in history]
        heading = [name.replace("_", " ") for name in history[0]]
        sections.append(("Fine-tuning", Table(heading, rows)))
    words = [(name, _word(value)) for name, value in constants.items()]
    sections.append(("Constants", Table(("constant", "value"), words)))
    facts = {
        "photographs": str(numbers["photographs"]),
        "seconds": f"{numbers['seconds']:.0f}",
        "memory GB": f"{numbers['record']['peak_memory_gb']:.1f}",
        "disk GB": f"{numbers['disk_gb']:.1f}",
    }
    write_text(run / PAGE, render_page(f"Training: {run.name}", facts, sections))


def write_benchmark_page(out: Path, result: dict[str, Any], chart: str) -> None:
    """Write the page of a benchmark: its chart, and the seconds of each stage.

    Parameters
    ----------
    out : Path
        Has the chart; gets index.html.
    result : dict
        Of `run_benchmark`.
    chart : str
        The chart's file name.
    """
    contenders = result["contenders"]
    stages = next(iter(contenders.values()))["stages"]
    rows = [
        (stage, *(f"{one['stages'][stage]['median']:.3f}" for one in contenders.values()))
        for stage in stages
    ]
    counted = sum_up_paper_stages(result)
    for key, label in (("paper", counted), ("all", "all")):
        rows.append((label, *(f"{one[key]['median']:.3f}" for one in contenders.values())))
    for key, label in (("paper", f"speed-up, {counted}"), ("all", "speed-up, all")):
        ratios = [result["speedup"].get(name) for name in contenders]
        rows.append((label, *(f"{one[key]['median']:.1f}" if one else "1" for one in ratios)))
    facts = {
        "photographs": str(max(one["photographs"] for one in contenders.values())),
        "trunk": result["backbone"],
        "device": result["device"],
        "numbers": result["dtype"],
    }
    sections: list[Section] = [
        ("Seconds a photograph", [Figure(chart, "seconds a photograph", "")]),
        ("Medians", Table(("median", *contenders), rows)),
    ]
    write_text(out / PAGE, render_page("SPP-net beside R-CNN", facts, sections))


def _word(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
