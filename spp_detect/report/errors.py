"""The kinds of error by class, and what is found by size, as a picture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval import ErrorAnalysis
from spp_detect.files import replace_file

_TEXT, _GRID, _MISSED = "#222222", "#e4e4e4", "#a63d2f"
_COLOURS = {
    "correct": "#4f9d69",
    "localisation": "#1f5a8c",
    "similar": "#e08e2b",
    "other": "#b0578d",
    "background": "#8c8c8c",
}


def plot_errors(analysis: ErrorAnalysis, path: Path) -> None:
    """Draw each class's best detections by kind, and the share of its boxes found by their size.

    Classes without boxes are left out.

    Parameters
    ----------
    analysis : ErrorAnalysis
        Of `eval.analyse_errors`.
    path : Path
        The PNG; it is written whole or not at all.
    """
    rows = [name for name, count in analysis.boxes.items() if count]
    labels = [*(f"{name} ({analysis.boxes[name]})" for name in rows), "mean"]
    figure = Figure(figsize=(10, 1.7 + 0.28 * len(labels)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 2]})
    _draw_kinds(left, _tabulate(analysis.shares, rows))
    _draw_sizes(right, _tabulate(analysis.found, rows))
    left.set_yticks(_place(len(labels)), labels)
    left.set_ylim(len(labels) - 0.2, -0.6)
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    with replace_file(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=130)


def _tabulate(shares: dict[str, dict[str, float]], rows: list[str]) -> dict[str, list[float]]:
    """Columns in percent, the mean of the known values at the end of each; NaN where none is."""
    columns = next(iter(shares.values()))
    table = {}
    for column in columns:
        values = [100 * shares[name][column] for name in rows]
        known = [value for value in values if not math.isnan(value)]
        table[column] = [*values, sum(known) / len(known) if known else math.nan]
    return table


def _place(count: int) -> list[float]:
    """Where the rows lie: the mean a little apart."""
    return [*map(float, range(count - 1)), count - 0.7]


def _draw_kinds(panel: Axes, table: dict[str, list[float]]) -> None:
    places = _place(len(table["correct"]))
    starts = np.zeros(len(places))
    for kind, colour in _COLOURS.items():
        panel.barh(places, table[kind], 0.72, starts, color=colour, label=kind)
        starts += table[kind]
    panel.set_xlim(0, 100)
    panel.set_title("the N best detections of N boxes, %", loc="left", fontsize=10)
    _style(panel)
    panel.grid(axis="x", color=_GRID, linewidth=0.8)


def _draw_sizes(panel: Axes, table: dict[str, list[float]]) -> None:
    """Draw a table of numbers, the darker the cell the more boxes are missed."""
    for x, shares in enumerate(table.values()):
        for y, share in zip(_place(len(shares)), shares, strict=True):
            if math.isnan(share):
                continue
            missed = 1 - share / 100
            panel.barh(y, 0.94, 0.86, x - 0.47, color=_MISSED, alpha=0.85 * missed)
            colour = "white" if missed > 0.75 else _TEXT
            panel.text(x, y, f"{share:.0f}", ha="center", va="center", fontsize=9, color=colour)
    panel.set_xticks(range(len(table)), list(table))
    panel.set_xlim(-0.5, len(table) - 0.5)
    panel.set_title("boxes found, by size within the class, %", loc="left", fontsize=10)
    _style(panel)


def _style(panel: Axes) -> None:
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=9, colors=_TEXT)
    panel.spines[:].set_visible(False)
