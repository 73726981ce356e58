"""Progress of long work on stderr: a bar on a terminal, plain lines otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[int, str], None]
PLAIN_INTERVAL_S = 5.0
"""Seconds without output after which the next step of tracked work prints a line, so a log pauses for less than 10 s."""

SHORTEST_S = 0.1
"""The shortest duration that is written as a number."""


def in_words(seconds: float) -> str:
    """Write a duration: less than 0.1 s, 3.2 s, 45 s, 12 min, 3.4 h."""
    if 0 < seconds < SHORTEST_S:
        return f"less than {SHORTEST_S:g} s"
    for unit, scale in (("h", 3600), ("min", 60)):
        if seconds >= 2 * scale:
            return f"{seconds / scale:.{1 if seconds < 10 * scale else 0}f} {unit}"
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


class Reporter:
    """Prints messages and progress; `quiet` prints nothing, `verbose` also prints debug messages and every step."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._verbose = verbose
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def info(self, text: str) -> None:
        """Print a line."""
        self._last_line = time.monotonic()
        self._console.print(text, markup=False)

    def log_step(self, text: str) -> None:
        """Print a line for one step of tracked work, unless a progress bar shows the step."""
        if self._verbose or not self._console.is_terminal:
            self.info(text)

    def debug(self, text: str) -> None:
        """Print a line if `verbose`."""
        if self._verbose:
            self.info(text)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Advance]:
        """Report progress over `total` steps; call the yielded function with the number of new steps and a note."""
        if self._console.is_terminal:
            yield from self._bar(label, total)
        else:
            yield from self._lines(label, total)

    def _bar(self, label: str, total: int) -> Iterator[Advance]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console, transient=True) as progress:
            task = progress.add_task(label, total=total, note="")

            def advance(steps: int, note: str = "") -> None:
                progress.update(task, advance=steps, note=note)

            yield advance

    def _lines(self, label: str, total: int) -> Iterator[Advance]:
        done = 0

        def advance(steps: int, note: str = "") -> None:
            nonlocal done
            done += steps
            if time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
                self.info(f"{label}: {done} of {total}" + (f" ({note})" if note else ""))

        yield advance


QUIET = Reporter(quiet=True)
"""A reporter that prints nothing."""
