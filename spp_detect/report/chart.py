"""Seconds per stage as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spp_detect.files import replace_file
from spp_detect.report.tables import describe_paper_stages

_TEXT, _GRID = "#222222", "#e4e4e4"
_COLOURS = {
    "reading": "#c4c4c4",
    "proposals": "#8c8c8c",
    "conv": "#1f5a8c",
    "pooling": "#e08e2b",
    "fc": "#4f9d69",
    "classification": "#b0578d",
}


def plot_seconds(result: dict[str, Any], path: Path) -> None:
    """Draw the median seconds of each stage, stacked: all contenders, then those but R-CNN.

    Parameters
    ----------
    result : of `benchmark.run_benchmark`.
    path : the PNG; it is written whole or not at all.
    """
    names = list(result["contenders"])
    fast = [name for name in names if name in result["speedup"]]
    figure = Figure(figsize=(9, 1.9 + 0.62 * (len(names) + len(fast))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    heights = [len(names) + 0.6, len(fast) + 0.6]
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    _draw_bars(above, result, names)
    _draw_bars(below, result, fast)
    below.set_title("enlarged", loc="left", fontsize=10, color=_TEXT)
    below.set_xlabel("median seconds a photograph", fontsize=10, color=_TEXT)
    count = max(one["photographs"] for one in result["contenders"].values())
    title = f"{result['backbone']} on {result['device']}, {count} photographs"
    figure.suptitle(title, fontsize=12, color=_TEXT)
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with replace_file(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=130)


def _draw_bars(panel: Axes, result: dict[str, Any], names: list[str]) -> None:
    for row, name in enumerate(names):
        start = 0.0
        for stage, spread in result["contenders"][name]["stages"].items():
            label = stage if row == 0 else None
            panel.barh(row, spread["median"], 0.62, start, color=_COLOURS[stage], label=label)
            start += spread["median"]
        panel.text(start, row, f"  {_describe(result, name)}", va="center", fontsize=9, color=_TEXT)
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.5, -0.5)
    panel.margins(x=0.45)  # room for the words after the longest bar
    panel.set_axisbelow(True)
    panel.grid(axis="x", color=_GRID, linewidth=0.8)
    panel.tick_params(length=0, labelsize=9, colors=_TEXT)
    panel.spines[:].set_visible(False)


def _describe(result: dict[str, Any], name: str) -> str:
    seconds = f"{result['contenders'][name]['all']['median']:.2f} s"
    speedup = result["speedup"].get(name)
    if speedup is None:
        return seconds
    ratios = f"{speedup['all']['median']:.1f}×, {speedup['paper']['median']:.1f}×"
    return f"{seconds}: {ratios} in {describe_paper_stages(result)}"
