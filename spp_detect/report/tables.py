"""Results as tables on the terminal."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table

from eval import VocResult
from proposals import Recall


def show_result(result: VocResult, what: str) -> None:
    """Print the average precision of each class in percent, and their mean."""
    table = Table(title=f"{what}: AP, {result.metric}, IoU ≥ {result.iou}")
    table.add_column("class")
    table.add_column("AP %", justify="right")
    for name in result.classes:
        table.add_row(name, _percent(result.ap[name]))
    table.add_section()
    table.add_row("mean", _percent(result.mean_ap), style="bold")
    Console().print(table)


def show_recall(recall: Recall, what: str) -> None:
    """Print the recall of proposed windows in percent."""
    table = Table(title=f"{what}: recall %")
    for heading in ("IoU 0.5", "IoU 0.7", "average", "windows"):
        table.add_column(heading, justify="right")
    shares = (recall.at_50, recall.at_70, recall.average)
    table.add_row(*map(_percent, shares), f"{recall.windows:.0f}")
    Console().print(table)


def _percent(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"
