"""Prints what a run does: lines, and how far each long part is.

A terminal shows a bar. Anywhere else, as in a log or in CI, a long part prints a line every 30
seconds.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from cprune_rl.core.sigterm import Terminated

__all__ = ["Advance", "Clock", "OnProgress", "ProgressEvent", "ProgressLog"]

Advance = Callable[[int], None]
"""Takes the units of work done so far."""
_STOPS: dict[signal.Signals, type[KeyboardInterrupt]] = {
    signal.SIGINT: KeyboardInterrupt,
    signal.SIGTERM: Terminated,
}
_LINE_EVERY_S = 30.0
_LOG_WIDTH = 150  # columns: a log file has no edge to wrap at


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """One thing that happened in a run.

    Attributes:
        kind: `begin` and `end` of a long part, `step` within it, or a `message`.
        stage: the part, such as "Calibrating the accuracy oracle on channels"; the innermost one
            where parts are nested, empty between them.
        done: units of work done of it.
        total: units of work in all; None where nobody knows.
        elapsed_s: seconds since the part began.
        message: text of a message; empty otherwise.
    """

    kind: Literal["begin", "step", "end", "message"]
    stage: str = ""
    done: int = 0
    total: int | None = None
    elapsed_s: float = 0.0
    message: str = ""


OnProgress = Callable[[ProgressEvent], None]
"""Is told what happens in a run. What it raises ends the run."""


class Clock:
    """Time as a `ProgressLog` sees it. A test passes its own."""

    def now(self) -> float:
        """Give the seconds since some fixed moment."""
        return time.perf_counter()

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait so long, or until `stop` is set, and say whether it is."""
        return stop.wait(seconds)


@dataclass
class _Part:
    """One long part of a run while it lasts."""

    what: str
    total: int | None
    started: float
    is_steady: bool
    done: int = 0

    def describe(self, now: float) -> str:
        """Say how far the part is and how long it will take."""
        elapsed_s = now - self.started
        words = [f"  {self.what}: {_minutes(elapsed_s)} so far"]
        if self.total is not None:
            words.append(f"{self.done} of {self.total}")
            if self.done and self.is_steady:
                left_s = elapsed_s * max(self.total - self.done, 0) / self.done
                words.append(f"about {_minutes(left_s)} left")
        return ", ".join(words)


class ProgressLog:
    """Prints lines and the progress of long parts, and adds up how long those took.

    Args:
        console: rich's; standard error where not given, so that results can be piped.
        clock: the machine's where not given.
        listener: is told everything in the place of the console.

    Attributes:
        stages_s: seconds that each part took, in the order they ended. Parts of one name add up.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Clock | None = None,
        listener: OnProgress | None = None,
    ) -> None:
        self.console = console or Console(stderr=True, quiet=listener is not None)
        self._listener = listener
        self._parts: list[_Part] = []
        self.stages_s: dict[str, float] = {}
        self._clock = clock or Clock()
        self._stopped_by: type[KeyboardInterrupt] | None = None
        if not self.console.is_terminal:
            self.console.width = max(self.console.width, _LOG_WIDTH)

    def print(self, text: str) -> None:
        """Print a line."""
        if self._listener is not None:
            stage = self._parts[-1].what if self._parts else ""
            self._listener(ProgressEvent(kind="message", stage=stage, message=text.strip()))
        # Names and paths have brackets of their own.
        self.console.print(text, highlight=False, markup=False)

    @contextlib.contextmanager
    def track(self, what: str, total: int | None, *, is_steady: bool = True) -> Iterator[Advance]:
        """Show the progress of a long part, and print how long it took.

        Args:
            what: is being done.
            total: units of work; None where nobody knows.
            is_steady: whether the units done so far say how long the others will take.

        Yields:
            A function to call with the units done so far. It raises KeyboardInterrupt where Ctrl-C
            was pressed inside `interruptible`.
        """
        part = _Part(what, total, self._clock.now(), is_steady)
        show = self._bar if self.console.is_terminal else self._lines
        if self._listener is not None:
            show = self._events
        with show(part) as advance:
            yield advance
        seconds = self._clock.now() - part.started
        self.stages_s[what] = round(self.stages_s.get(what, 0.0) + seconds, 1)
        if self._listener is None:
            self.print(f"  {what:48} {seconds:7.1f} s")

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Make Ctrl-C and SIGTERM end the work inside, even where Python drops the exception.

        Python prints and drops an exception that is raised while a destructor runs. The next call
        of an `Advance` then raises it again.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # another part of the program handles signals
            return
        with contextlib.ExitStack() as handlers:
            for number, kind in _STOPS.items():
                if signal.getsignal(number) is not signal.SIG_IGN:
                    before = signal.signal(number, functools.partial(self._stop, kind))
                    handlers.callback(signal.signal, number, before)
            try:
                yield
            finally:
                self._stopped_by = None

    def _stop(self, kind: type[KeyboardInterrupt], *_: Any) -> None:
        self._stopped_by = kind
        raise kind

    def _raise_if_stopped(self) -> None:
        if self._stopped_by is not None:
            raise self._stopped_by

    @contextlib.contextmanager
    def _bar(self, part: _Part) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(part.what, total=part.total)

            def advance(done: int) -> None:
                self._raise_if_stopped()
                bar.update(task, completed=done)

            yield advance

    @contextlib.contextmanager
    def _events(self, part: _Part) -> Iterator[Advance]:
        def advance(done: int) -> None:
            self._raise_if_stopped()
            part.done = done
            self._tell("step", part)

        self._parts.append(part)
        self._tell("begin", part)
        try:
            yield advance
        finally:
            self._parts.remove(part)
        self._tell("end", part)

    def _tell(self, kind: Literal["begin", "step", "end"], part: _Part) -> None:
        assert self._listener is not None, "parts are told where somebody listens"
        event = ProgressEvent(
            kind=kind,
            stage=part.what,
            done=part.done,
            total=part.total,
            elapsed_s=self._clock.now() - part.started,
        )
        self._listener(event)

    @contextlib.contextmanager
    def _lines(self, part: _Part) -> Iterator[Advance]:
        """Print a line now and then, from a thread: a unit of work may take minutes."""
        stop = threading.Event()

        def print_lines() -> None:
            while not self._clock.wait(stop, _LINE_EVERY_S):
                self.print(part.describe(self._clock.now()))

        def advance(done: int) -> None:
            self._raise_if_stopped()
            part.done = done

        thread = threading.Thread(target=print_lines, name="progress", daemon=True)
        thread.start()
        try:
            yield advance
        finally:
            stop.set()
            thread.join()


def _minutes(seconds: float) -> str:
    """Write seconds as `1:05 min`, or as `12 s` below a minute."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02} min" if whole >= 60 else f"{whole} s"
