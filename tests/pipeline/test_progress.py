"""What a run says while it works, and how it hears that it is to stop."""

import contextlib
import io
import signal
import threading

import pytest
from rich.console import Console

from cprune_rl.pipeline.progress import ProgressLog


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
    progress, done = ProgressLog(Console(file=io.StringIO(), force_terminal=is_terminal)), []

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
