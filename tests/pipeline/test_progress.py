"""What a run prints while it works, and how it hears that it is to stop."""

import contextlib
import io
import signal
import threading

import pytest
from rich.console import Console

from cprune_rl.core.sigterm import Terminated, exit_status
from cprune_rl.pipeline.progress import Clock, ProgressLog


class HalfMinutes(Clock):
    """Time that passes when a test says so, half a minute at once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._passes = threading.Semaphore(0)
        self._is_waited_for = threading.Semaphore(0)

    def now(self) -> float:
        return self.seconds

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self._is_waited_for.release()
        while not self._passes.acquire(timeout=0.01):
            if stop.is_set():
                return True
        return False

    def pass_half_a_minute(self) -> None:
        """Let 30 seconds pass, and whoever waits for them do its work."""
        self._is_waited_for.acquire()
        self.seconds += 30
        self._passes.release()
        self._is_waited_for.acquire()
        self._is_waited_for.release()


def test_a_long_part_prints_a_line_every_half_minute_where_there_is_no_terminal() -> None:
    written = io.StringIO()
    clock = HalfMinutes()
    progress = ProgressLog(Console(file=written), clock)
    with progress.track("Calibrating", 8) as advance:
        clock.pass_half_a_minute()
        advance(1)
        clock.pass_half_a_minute()
        clock.pass_half_a_minute()
        advance(6)
    assert written.getvalue().splitlines() == [
        "  Calibrating: 30 s so far, 0 of 8",
        "  Calibrating: 1:00 min so far, 1 of 8, about 7:00 min left",
        "  Calibrating: 1:30 min so far, 1 of 8, about 10:30 min left",
        f"  {'Calibrating':48}    90.0 s",
    ]
    assert progress.stages_s == {"Calibrating": 90.0}


def test_a_part_that_is_not_steady_says_how_far_it_is_and_not_when_it_ends() -> None:
    written = io.StringIO()
    clock = HalfMinutes()
    progress = ProgressLog(Console(file=written), clock)
    with progress.track("Searching, % of the slack used", 100, is_steady=False) as advance:
        advance(90)
        clock.pass_half_a_minute()
    line = written.getvalue().splitlines()[0]
    assert line == "  Searching, % of the slack used: 30 s so far, 90 of 100"


def test_a_part_of_unknown_length_says_how_long_it_took_so_far() -> None:
    written = io.StringIO()
    clock = HalfMinutes()
    with ProgressLog(Console(file=written), clock).track("Finding groups", None):
        clock.pass_half_a_minute()
    assert written.getvalue().startswith("  Finding groups: 30 s so far\n")


def test_a_part_that_fails_prints_no_more_lines() -> None:
    progress = ProgressLog(Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="wrong"), progress.track("Failing", 2):
        raise ValueError("wrong")
    assert [thread.name for thread in threading.enumerate() if thread.name == "progress"] == []


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_part_is_told_with_its_seconds(is_terminal: bool) -> None:
    written = io.StringIO()
    progress = ProgressLog(Console(file=written, force_terminal=is_terminal))
    for _ in range(2):
        with progress.track("Counting", 3) as advance:
            advance(1)
    assert "Counting" in written.getvalue()
    assert set(progress.stages_s) == {"Counting"}


@pytest.mark.parametrize("is_terminal", [True, False])
def test_ctrl_c_that_python_forgot_is_heard_at_the_next_unit_of_work(is_terminal: bool) -> None:
    progress = ProgressLog(Console(file=io.StringIO(), force_terminal=is_terminal))
    done = []

    def work() -> None:
        with progress.interruptible(), progress.track("Counting", 3) as advance:
            advance(1)
            with contextlib.suppress(KeyboardInterrupt):  # as where it meets a destructor
                signal.raise_signal(signal.SIGINT)
            done.append("went on")
            advance(2)
            done.append("and on")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["went on"]
    with progress.track("Counting again", 1) as advance:
        advance(1)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_brackets_in_names_are_text(is_terminal: bool) -> None:
    said = io.StringIO()
    progress = ProgressLog(Console(file=said, force_terminal=is_terminal, width=120))
    progress.print("runs/[a] of [/nobody]")
    with progress.track("Reading [/b]", 1) as advance:
        advance(1)
    assert "runs/[a] of [/nobody]" in said.getvalue()
    assert "Reading [/b]" in said.getvalue()


def test_sigterm_ends_the_work_as_ctrl_c_does() -> None:
    progress = ProgressLog(Console(file=io.StringIO()))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as raised, progress.interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert exit_status(raised.value) == 143
    assert exit_status(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def test_where_ctrl_c_is_ignored_or_not_ours_it_stays_so() -> None:
    progress = ProgressLog(Console(file=io.StringIO()))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with progress.interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        errors = []

        def work() -> None:
            try:
                with progress.interruptible():
                    pass
            except ValueError as error:  # Python allows handlers in its main thread alone
                errors.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert errors == []
    finally:
        signal.signal(signal.SIGINT, before)
