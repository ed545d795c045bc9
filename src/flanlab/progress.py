"""Progress of long work: a bar with the remaining time on a terminal, or else a line from time to time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_TO_FIRST_LINE = 2.0


def _open_console() -> Console:
    """The error stream; in a notebook its text output, without bars: rich would make each line an output of its own."""
    plain = Console(stderr=True, highlight=False)
    return Console(highlight=False, force_jupyter=False, force_terminal=False) if plain.is_jupyter else plain


console = _open_console()
"""Output for everything that is not a command's result."""


def say(message: str) -> None:
    """Print one line for the user."""
    console.print(message, markup=False, soft_wrap=True)


class Meter:
    """Progress of one piece of work. Call `advance`, with notes such as the loss."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._first = title, total, done, done
        self._start = time.monotonic()
        self._last_line = self._start + _SECONDS_TO_FIRST_LINE - _SECONDS_BETWEEN_LINES
        self.bar: Progress | None = None
        if console.is_terminal and not console.quiet:
            self.bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(elapsed_when_finished=False),
                TextColumn("{task.fields[notes]}"),
                console=console,
            )
            self.bar.add_task(title, total=total, completed=done, notes="")

    def advance(self, amount: int = 1, notes: str = "") -> None:
        """Count `amount` more as finished."""
        self._done += amount
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self._done, notes=notes)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES or self._done >= self._total:
            self._last_line = now
            spent = now - self._start
            worked = self._done - self._first
            left = spent / worked * (self._total - self._done) if worked else float("nan")
            say(f"{self._title}: {self._done}/{self._total}, {clock(left)} left {notes}".rstrip())


@contextmanager
def meter(title: str, total: int, done: int = 0) -> Iterator[Meter]:
    """A Meter for the duration of a block."""
    running = Meter(title, total, done)
    with running.bar or nullcontext():
        yield running


def clock(seconds: float) -> str:
    """Seconds in a readable form: 45 s, 3 min, 1 h 20 min."""
    if seconds != seconds:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
