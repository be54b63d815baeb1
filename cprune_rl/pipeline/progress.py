"""What a run says while it works:

a progress bar for each long part, lines where there is no terminal.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["ProgressLog"]

_PLAIN_WIDTH = 150  # a log file has no edge to wrap at
Advance = Callable[[int], None]


class ProgressLog:
    """Prints to a console.

    Args:
        console: rich's; None for standard error, so that results can be piped.

    Attributes:
        stages_s: seconds that each part took, in the order they ended; parts of one name together.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.stages_s: dict[str, float] = {}
        self._is_stopped = False
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, _PLAIN_WIDTH)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, Ctrl-C ends the work even where Python forgets it:

        an exception that meets a destructor is printed and dropped, so the next unit of work raises
        it again.
        """
        if (
            threading.current_thread() is not threading.main_thread()
            or signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        ):
            yield  # signals are not ours to handle here
            return

        def stop(*_: Any) -> None:
            self._is_stopped = True
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
            self._is_stopped = False

    def _check(self) -> None:
        if self._is_stopped:
            raise KeyboardInterrupt

    def print(self, text: str) -> None:
        """One line."""
        self.console.print(text, highlight=False)

    @contextlib.contextmanager
    def track(self, what: str, total: int | None) -> Iterator[Advance]:
        """A long part of the run.

        Args:
            what: what is being done.
            total: units of work; None where nobody knows.

        Yields:
            A function to call with the units done so far.
        """
        started = time.perf_counter()
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(what, total=total)

                def advance(done: int) -> None:
                    self._check()
                    progress.update(task, completed=done)

                yield advance
        else:
            yield lambda _: self._check()
        seconds = time.perf_counter() - started
        self.stages_s[what] = round(self.stages_s.get(what, 0.0) + seconds, 1)
        self.print(f"  {what:48} {seconds:7.1f} s")
