"""What a run says while it works: a progress bar for each long part, lines where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Reporter"]

_PLAIN_WIDTH = 150  # a log file has no edge to wrap at
Advance = Callable[[int], None]


class Reporter:
    """Prints to a console.

    Args:
        console: rich's; None for standard error, so that results can be piped.

    Attributes:
        stages_s: seconds that each part took, in the order they ended; parts of one name together.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.stages_s: dict[str, float] = {}
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, _PLAIN_WIDTH)

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False)

    @contextlib.contextmanager
    def part(self, what: str, total: int | None) -> Iterator[Advance]:
        """A long part of the run.

        Args:
            what: what is being done.
            total: units of work; None where nobody knows.

        Yields:
            A function to call with the units done so far.
        """
        started = time.perf_counter()
        if self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(what, total=total)
                yield lambda done: progress.update(task, completed=done)
        else:
            yield lambda _: None
        seconds = time.perf_counter() - started
        self.stages_s[what] = round(self.stages_s.get(what, 0.0) + seconds, 1)
        self.say(f"  {what:48} {seconds:7.1f} s")
