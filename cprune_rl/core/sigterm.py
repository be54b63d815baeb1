"""Ends a command that is asked to stop, so that it cleans up as after Ctrl-C."""

from __future__ import annotations

import signal
import threading
from types import FrameType

__all__ = ["Terminated", "exit_status", "stop_on_sigterm"]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: from `kill`, a scheduler, or a machine that shuts down."""


def stop_on_sigterm() -> None:
    """Have SIGTERM raise `Terminated`, where nothing else handles it."""
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _raise_terminated)


def exit_status(stop: KeyboardInterrupt) -> int:
    """Give the exit status of a command that was stopped, as shells have it."""
    number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
    return 128 + number


def _raise_terminated(_: int, __: FrameType | None) -> None:
    raise Terminated
