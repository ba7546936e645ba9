"""Results as tables on the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval import ErrorAnalysis, VocResult
from proposals import Recall
from spp_detect.inspection import Inspection
from spp_detect.ready_models import ReadyModel

_CAUSES = {
    "localisation": "errors of localisation (corrected)",
    "similar": "errors on similar classes",
    "other": "errors on other classes",
    "background": "errors on background",
    "missed": "missed boxes",
}


def show_result(result: VocResult, what: str) -> None:
    """Print the average precision of each class in percent, and their mean."""
    table = Table(title=f"{escape(what)}: AP, {result.metric}, IoU ≥ {result.iou}")
    table.add_column("class")
    table.add_column("AP %", justify="right")
    for name in result.classes:
        table.add_row(escape(name), _percent(result.ap[name]))
    table.add_section()
    table.add_row("mean", _percent(result.mean_ap), style="bold")
    Console().print(table)


def show_transfer(result: dict[str, Any], what: str) -> None:
    """Print what each class measured in percent, and their mean, of `transfer`'s result."""
    ap = "ap" in result
    table = Table(title=f"{escape(what)}: {'AP, 11-point' if ap else 'accuracy'}, of photographs")
    table.add_column("class")
    table.add_column("AP %" if ap else "accuracy %", justify="right")
    for name, value in result["ap" if ap else "accuracy_by_class"].items():
        table.add_row(escape(name), _percent(value))
    table.add_section()
    mean = _percent(result["mAP" if ap else "accuracy"])
    if not ap:
        mean += f" ± {_percent(result['deviation'])}"
    table.add_row("mean", mean, style="bold")
    Console().print(table)


def show_errors(analysis: ErrorAnalysis, count: int = 3) -> None:
    """Print the largest causes of error and the points of mAP that each would be worth."""
    worth = {cause: gain for cause, gain in analysis.worth.items() if not math.isnan(gain)}
    largest = sorted(worth, key=lambda cause: -worth[cause])[:count]
    for cause in largest:
        gain = f"{100 * worth[cause]:+.1f} points of mAP"
        Console().print(f"without {_CAUSES[cause]}: {gain}", soft_wrap=True)


def show_models(models: Sequence[ReadyModel]) -> None:
    """Print what is known of the models that come with the package."""
    table = Table(title="ready models")
    table.add_column(
        "name", no_wrap=True, min_width=max((len(one.name) for one in models), default=0)
    )
    for heading in ("trunk", "classes", "mAP %", "measured on", "MB", "seconds a photograph"):
        table.add_column(heading, justify="right")
    for model in models:
        table.add_row(
            model.name,
            model.backbone,
            str(model.classes),
            _percent(model.measured.get("mAP", math.nan)),
            "{photographs} of {split}".format_map(model.measured) if model.measured else "–",
            f"{model.size / 1e6:.1f}",
            _seconds_each(model.measured),
        )
    Console().print(table)


def _seconds_each(measured: dict[str, Any]) -> str:
    return f"{measured['seconds'] / measured['photographs']:.2f}" if measured else "–"


def show_inspection(found: Inspection, what: str) -> None:
    """Print what a labelled set holds, and line by line what is wrong with it."""
    for split, classes in found.classes.items():
        table = Table(
            title=f"{escape(what)}: {escape(split)}, {found.photographs[split]} photographs"
        )
        table.add_column("class")
        for heading in ("boxes", "difficult", "photographs", "median side"):
            table.add_column(heading, justify="right")
        for name, counts in classes.items():
            side = "–" if math.isnan(counts.side) else f"{counts.side:.0f}"
            numbers = counts.boxes, counts.difficult, counts.photographs
            table.add_row(escape(name), *map(str, numbers), side)
        Console().print(table)
    for fault in found.faults:
        print(f"{fault.told}: {fault.outcome}")
    for splits, names in found.shared.items():
        print(f"{what}: {len(names)} photographs in {splits}: {', '.join(names)}")
    print(f"{what}: {_summarise(found)}")


def _summarise(found: Inspection) -> str:
    outcomes = Counter(fault.outcome for fault in found.faults)
    parts = [f"{count} x {outcome}" for outcome, count in outcomes.items()]
    parts += [f"{len(names)} photographs in {splits}" for splits, names in found.shared.items()]
    return ", ".join(parts) or "nothing wrong"


def show_recall(recall: Recall, what: str) -> None:
    """Print the recall of proposed windows in percent."""
    table = Table(title=f"{escape(what)}: recall %")
    for heading in ("IoU 0.5", "IoU 0.7", "average", "windows"):
        table.add_column(heading, justify="right")
    shares = (recall.at_50, recall.at_70, recall.average)
    table.add_row(*map(_percent, shares), f"{recall.windows:.0f}")
    Console().print(table)


def show_benchmark(result: dict[str, Any]) -> None:
    """Print the seconds of each stage and the speed-ups, of `benchmark.run_benchmark`'s result."""
    contenders = result["contenders"]
    table = Table(
        title=f"{result['backbone']}, {result['device']}, {result['dtype']}: seconds a photograph",
        caption=_caption_benchmark(result),
    )
    table.add_column("median")
    for name in contenders:
        table.add_column(name, justify="right")
    for stage in next(iter(contenders.values()))["stages"]:
        medians = [f"{one['stages'][stage]['median']:.3f}" for one in contenders.values()]
        table.add_row("fc (none)" if stage == "fc" and not result["fc_layers"] else stage, *medians)
    table.add_section()
    counted = sum_up_paper_stages(result)
    for key, label in (("paper", counted), ("all", "all")):
        table.add_row(
            label, *(_format_spread(one[key]) for one in contenders.values()), style="bold"
        )
    table.add_section()
    for key, label in (("paper", f"speed-up, {counted}"), ("all", "speed-up, all")):
        ratios = [result["speedup"].get(name) for name in contenders]
        table.add_row(label, *(f"{one[key]['median']:.1f}×" if one else "1×" for one in ratios))
    Console().print(table)


def sum_up_paper_stages(result: dict[str, Any]) -> str:
    """Name the stages of a benchmark that the paper counts."""
    return "conv + pooling + fc" if result["fc_layers"] else "conv + pooling"


def _caption_benchmark(result: dict[str, Any]) -> str:
    contenders = result["contenders"]
    photographs = {one["photographs"] for one in contenders.values()}
    parts = [
        f"{max(photographs)} photographs"
        + (f", R-CNN on {min(photographs)} of them" if len(photographs) > 1 else ""),
        f"{next(iter(contenders.values()))['windows']['median']:.0f} windows",
        f"R-CNN's conv holds {contenders['R-CNN']['warp']['median']:.3f} s of cropping and warping",
    ]
    if not result["fc_layers"]:
        parts.append("no fc layers in this model")
    return "; ".join(parts)


def _format_spread(value: dict[str, Any]) -> str:
    """Median and quartiles of seconds."""
    low, high = value["quartiles"]
    return f"{value['median']:.3f}\n{low:.3f}–{high:.3f}"


def _percent(fraction: float) -> str:
    return "–" if math.isnan(fraction) else f"{100 * fraction:.1f}"
