"""Progress of long steps: told to a function, shown on a terminal, or kept quiet.

From Python nothing is shown unless it is asked for; the command line shows.

Examples
--------
>>> from spp_detect.progress import report_to, track
>>> with report_to(lambda step, done, total: print(f"{step}: {done} of {total}")):
...     squares = [n * n for n in track([2, 3], "squares")]
squares: 0 of 2
squares: 1 of 2
squares: 2 of 2
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
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
# Gets the step's name, how many items are done and how many there are; None where nobody knows.
Listener = Callable[[str, int, "int | None"], None]
Tracker = Callable[[Iterable[Item], str, "int | None"], Iterator[Item]]
SECONDS_BETWEEN_LINES = 15.0


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Pass items on and tell how many are done to whom it may concern: by default, nobody.

    Parameters
    ----------
    items : iterable
        What is worked through.
    what : str
        Name of the step.
    total : int, optional
        How many items, where `items` has no length.

    Yields
    ------
    object
        Each item; it counts as done when the next one is asked for.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    yield from _tracker(items, what, total)


def report_to(listener: Listener) -> AbstractContextManager[None]:
    """Have the steps that begin within a `with` block told to a function.

    It holds for all threads. What the function raises ends the step, whose work can be resumed
    where a run can.

    Parameters
    ----------
    listener : callable
        Gets the step's name (str), how many items are done (int, from 0 on) and how many there are
        (int, or None where that is not known).
    """

    def tell(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
        listener(what, 0, total)
        for done, item in enumerate(items, 1):
            yield item
            listener(what, done, total)

    return _use(tell)


def silence() -> AbstractContextManager[None]:
    """Have the steps that begin within a `with` block keep quiet, as they do by default."""
    return _use(_pass_on)


def show() -> AbstractContextManager[None]:
    """Show the steps that begin within a `with` block on stderr, as the command line does.

    A bar on a terminal, plain lines elsewhere.
    """
    return _use(_show)


def is_shown() -> bool:
    """Whether steps are shown on stderr: for what shows a bar of its own, such as a download."""
    return _tracker is _show


def _pass_on(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
    yield from items


_tracker: Tracker = _pass_on


@contextmanager
def _use(tracker: Tracker) -> Iterator[None]:
    global _tracker
    before, _tracker = _tracker, tracker
    try:
        yield
    finally:
        _tracker = before


def _show(items: Iterable[Item], what: str, total: int | None) -> Iterator[Item]:
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
