"""Precision-recall curves as a picture."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.files import write_atomically
from eval.voc import Curve, VocResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 5
_LINE, _FILL, _TEXT, _GRID = "#1f5a8c", "#c9dcec", "#222222", "#e4e4e4"


def plot_curves(result: VocResult, path: str | Path) -> None:
    """Draw the precision-recall curve of every class into one PNG, a small panel each.

    The line is the curve itself; the shade beneath it is the highest precision at this or any
    higher recall, which AP averages. A class without non-difficult truths gets an empty panel.

    Parameters
    ----------
    result : VocResult
        From `evaluate_voc`.
    path : path
        The PNG; it is written whole or not at all.

    Raises
    ------
    EvalError
        Where the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from eval import evaluate_voc
    >>> result = evaluate_voc([], [], ["cat", "dog"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     plot_curves(result, f"{folder}/curves.png")
    """
    # Not before they are needed, as to detect does without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(result.classes))
    rows = math.ceil(len(result.classes) / columns)
    figure = Figure(figsize=(2.3 * columns + 0.9, 2.25 * rows + 1.1), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for panel in panels.flat[len(result.classes) :]:
        panel.remove()
    for index, (panel, name) in enumerate(zip(panels.flat, result.classes, strict=False)):
        _draw(panel, name, result.ap[name], result.curves[name])
        # With panels removed from the last row, those above their places need the numbers.
        panel.tick_params(labelbottom=index + columns >= len(result.classes))
    figure.suptitle(_describe(result), fontsize=12, color=_TEXT)
    figure.supxlabel("recall", fontsize=10, color=_TEXT)
    figure.supylabel("precision", fontsize=10, color=_TEXT)
    picture = io.BytesIO()
    canvas.print_figure(picture, format="png", dpi=130)
    write_atomically(Path(path), picture.getvalue())


def _describe(result: VocResult) -> str:
    rule = "11-point AP" if result.metric == "11-point" else "AP, area under the curve"
    mean = "undefined" if math.isnan(result.mean_ap) else f"{100 * result.mean_ap:.1f} %"
    return f"mean {mean} ({rule}, IoU ≥ {result.iou:g})"


def _draw(panel: Axes, name: str, ap: float, curve: Curve) -> None:
    panel.set(xlim=(0, 1.02), ylim=(0, 1.05), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    panel.set_xticklabels(("0", ".5", "1"))
    panel.set_yticklabels(("0", ".5", "1"))
    panel.set_axisbelow(True)
    panel.grid(color=_GRID, linewidth=0.8)
    panel.tick_params(length=0, labelsize=8, colors="#666666")
    panel.spines[:].set_visible(False)
    panel.set_title(name, loc="left", fontsize=10, color=_TEXT)
    if math.isnan(ap):
        panel.text(0.5, 0.5, "no truths", ha="center", va="center", fontsize=9, color="#888888")
        return
    panel.set_title(f"{100 * ap:.1f}", loc="right", fontsize=10, color=_LINE, fontweight="bold")
    if not len(curve.recall):
        return
    best_after = np.maximum.accumulate(curve.precision[::-1])[::-1]
    recall = np.concatenate([[0.0], curve.recall])
    panel.fill_between(
        recall, np.concatenate([best_after[:1], best_after]), step="pre", color=_FILL, linewidth=0
    )
    panel.plot(curve.recall, curve.precision, color=_LINE, linewidth=1.3, clip_on=False)
