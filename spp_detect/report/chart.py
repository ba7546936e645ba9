"""Seconds per stage as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from spp_detect.files import replace_file
from spp_detect.report.terminal import sum_up_paper_stages

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
    result : dict
        Of `run_benchmark`.
    path : Path
        The PNG; it is written whole or not at all.
    """
    names = list(result["contenders"])
    fast = list(result["speedup"])
    figure = Figure(figsize=(9, 1.9 + 0.62 * (len(names) + len(fast))), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    heights = [len(names) + 0.6, len(fast) + 0.6]
    above, below = figure.subplots(2, 1, gridspec_kw={"height_ratios": heights})
    _draw_bars(above, result, {name: _caption_all(result, name) for name in names})
    _draw_bars(below, result, {name: _caption_counted(result, name) for name in fast})
    below.set_title("enlarged", loc="left", fontsize=10, color=_TEXT)
    below.set_xlabel("median seconds a photograph", fontsize=10, color=_TEXT)
    figure.suptitle(_caption_set(result), fontsize=12, color=_TEXT)
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with replace_file(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=130)


def _draw_bars(panel: Axes, result: dict[str, Any], texts: dict[str, str]) -> None:
    """Draw a bar for each contender, its text behind it."""
    for row, (name, text) in enumerate(texts.items()):
        start = 0.0
        for stage, spread in result["contenders"][name]["stages"].items():
            if stage == "fc" and not result["fc_layers"]:
                continue
            label = stage if row == 0 else None
            panel.barh(row, spread["median"], 0.62, start, color=_COLOURS[stage], label=label)
            start += spread["median"]
        panel.text(start, row, f"  {text}", va="center", fontsize=9, color=_TEXT)
    panel.set_yticks(range(len(texts)), list(texts))
    panel.set_ylim(len(texts) - 0.5, -0.5)
    panel.margins(x=0.5)  # room for the words after the longest bar
    panel.set_axisbelow(True)
    panel.grid(axis="x", color=_GRID, linewidth=0.8)
    panel.tick_params(length=0, labelsize=9, colors=_TEXT)
    panel.spines[:].set_visible(False)


def _caption_all(result: dict[str, Any], name: str) -> str:
    seconds = f"{result['contenders'][name]['all']['median']:.2f} s"
    speedup = result["speedup"].get(name)
    return seconds if speedup is None else f"{seconds}, {speedup['all']['median']:.1f}× as fast"


def _caption_counted(result: dict[str, Any], name: str) -> str:
    seconds = f"{result['contenders'][name]['paper']['median']:.3f} s"
    ratio = f"{result['speedup'][name]['paper']['median']:.1f}× as fast"
    return f"{sum_up_paper_stages(result)}: {seconds}, {ratio}"


def _caption_set(result: dict[str, Any]) -> str:
    first = next(iter(result["contenders"].values()))
    windows = f"{first['windows']['median']:.0f} windows"
    return (
        f"{result['backbone']}, {result['device']}: {first['photographs']} photographs, {windows}"
    )
