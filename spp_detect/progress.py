"""Progress of long steps: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 15.0


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Pass items on and show on stderr how many are done, how fast, and how long the rest takes.

    Parameters
    ----------
    items : what is worked through.
    what : name of the step.
    total : how many items, where `items` has no length.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    console = Console(stderr=True)
    if console.is_terminal:
        yield from _show_bar(items, what, total, console)
    else:
        yield from _print_lines(items, what, total)


def _show_bar(
    items: Iterable[Item], what: str, total: int | None, console: Console
) -> Iterator[Item]:
    columns = (
        TextColumn(f"{what:>15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(what, total=total, rate="")
        for done, item in enumerate(items):
            yield item
            rate = (done + 1) / (time.monotonic() - start + 1e-9)
            progress.update(task, advance=1, rate=f"{rate:.2f}/s")


def _print_lines(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    start = shown = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= SECONDS_BETWEEN_LINES:
            shown = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            print(f"{what}: {done}/{total or '?'}, {rate:.2f}/s{left}", file=sys.stderr, flush=True)
    print(f"{what}: {done} done in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
