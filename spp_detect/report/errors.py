"""The kinds of error by class, and what is found by size, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval import ErrorAnalysis
from spp_detect.files import replace_file

_TEXT, _GRID, _FAINT = "#222222", "#e4e4e4", "#c4c4c4"
_COLOURS = {
    "correct": "#4f9d69",
    "localisation": "#1f5a8c",
    "similar": "#e08e2b",
    "other": "#b0578d",
    "background": "#8c8c8c",
}


def plot_errors(analysis: ErrorAnalysis, path: Path) -> None:
    """Draw each class's best detections by kind, and the share of boxes found by their size.

    Parameters
    ----------
    analysis : ErrorAnalysis
        Of `eval.analyse_errors`.
    path : Path
        The PNG; it is written whole or not at all.
    """
    count = len(analysis.shares)
    figure = Figure(figsize=(10, max(3.4, 1.6 + 0.26 * count)), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [3, 2]})
    _draw_kinds(left, analysis)
    _draw_sizes(right, analysis)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with replace_file(path) as temporary:
        canvas.print_figure(temporary, format="png", dpi=130)


def _draw_kinds(panel: Axes, analysis: ErrorAnalysis) -> None:
    names = list(analysis.shares)
    starts = np.zeros(len(names))
    for kind, colour in _COLOURS.items():
        shares = np.array([100 * analysis.shares[name][kind] for name in names])
        panel.barh(range(len(names)), shares, 0.72, starts, color=colour, label=kind)
        starts += shares
    panel.set_yticks(range(len(names)), names)
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.set_xlim(0, 100)
    panel.set_title("the best detections, as many as boxes, %", loc="left", fontsize=10)
    _style(panel)
    panel.grid(axis="x", color=_GRID, linewidth=0.8)


def _draw_sizes(panel: Axes, analysis: ErrorAnalysis) -> None:
    table = np.array([list(shares.values()) for shares in analysis.found.values()]) * 100
    sizes = list(next(iter(analysis.found.values())))
    for shares in table:
        panel.plot(range(len(sizes)), shares, color=_FAINT, linewidth=0.8)
    known = ~np.isnan(table)
    means = np.where(known, table, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    panel.plot(range(len(sizes)), means, color=_COLOURS["localisation"], linewidth=2, marker="o")
    for k, mean in enumerate(means):
        panel.annotate(f"{mean:.0f}", (k, mean), (0, 7), textcoords="offset points", ha="center")
    panel.set_xticks(range(len(sizes)), sizes)
    panel.set_ylim(0, 105)
    panel.set_title("boxes found by size, % (a line a class, mean)", loc="left", fontsize=10)
    _style(panel)
    panel.grid(axis="y", color=_GRID, linewidth=0.8)


def _style(panel: Axes) -> None:
    panel.set_axisbelow(True)
    panel.tick_params(length=0, labelsize=9, colors=_TEXT)
    panel.spines[:].set_visible(False)
