"""Reads damaged files, and tells what went wrong: anything but an error of the tree, in a line."""

from __future__ import annotations

import contextlib
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cprune_rl.errors import CPruneError
from tests.fuzz.mutations import Mutator

__all__ = ["Findings", "Format", "read_damaged"]

_MAX_BYTES = 1 << 30  # that reading may ask for
_RUNS = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"}
_N_KEPT = 5  # inputs of each fault


@dataclass(frozen=True, kw_only=True)
class Format:
    """A format that is read.

    Attributes:
        write: writes whole files of it into a folder.
        damaged: the files that are damaged, one at a time.
        read: reads the folder as a user's command does.
        mutate: damages a file; None for what fits its ending.
    """

    name: str
    write: Callable[[Path], None]
    damaged: tuple[str, ...]
    read: Callable[[Path], object]
    mutate: Callable[[Mutator, bytes], bytes] | None = None


@dataclass
class Findings:
    """What reading damaged files came to.

    Attributes:
        n_read: files that opened all the same.
        n_refused: files that were refused in one line.
        faults: how often each fault came up.
        inputs: a few inputs of each fault: file and content.
    """

    n_read: int = 0
    n_refused: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    inputs: dict[str, list[tuple[str, bytes]]] = field(default_factory=dict)


class _Watch:
    """Notes what is run while it is on; Python's audit hooks cannot be taken off."""

    def __init__(self) -> None:
        self.is_on = False
        self.events: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, _: tuple[object, ...]) -> None:
        if self.is_on and event in _RUNS:
            self.events.append(event)


_WATCH = _Watch()


def read_damaged(kind: Format, folder: Path, *, n_inputs: int, seed: int = 0) -> Findings:
    """Read so many damaged files of a format.

    Args:
        folder: empty; whole files are written to it first, which must open.
    """
    kind.write(folder)
    kind.read(folder)
    whole = {name: (folder / name).read_bytes() for name in kind.damaged}
    mutator = Mutator(seed)
    findings = Findings()
    with _limited_memory(), _all_warnings_are_errors():
        for _ in range(n_inputs):
            name = mutator.rng.choice(kind.damaged)
            content = (
                mutator.file(name, whole[name])
                if kind.mutate is None
                else kind.mutate(mutator, whole[name])
            )
            _read_one(kind, folder, {name: content}, findings)
            (folder / name).write_bytes(whole[name])
    return findings


def _read_one(kind: Format, folder: Path, files: Mapping[str, bytes], findings: Findings) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    fault = _fault(kind, folder)
    if fault is None:
        findings.n_read += 1
    elif fault == "":
        findings.n_refused += 1
    else:
        findings.faults[fault] += 1
        kept = findings.inputs.setdefault(fault, [])
        if len(kept) < _N_KEPT:
            kept += files.items()


def _fault(kind: Format, folder: Path) -> str | None:
    """Say what went wrong; "" where the file was refused as it should be, None where it opened."""
    _WATCH.events.clear()
    _WATCH.is_on = True
    try:
        kind.read(folder)
    except CPruneError as error:
        return _unclear(str(error), folder)
    except Exception as error:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        frame = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        return f"{type(error).__name__} at {frame}: {str(error)[:100]}"
    finally:
        _WATCH.is_on = False
    return f"it ran {_WATCH.events[0]}" if _WATCH.events else None


def _unclear(message: str, folder: Path) -> str:
    if _WATCH.events:
        return f"it ran {_WATCH.events[0]}"
    if not message.isprintable():
        return f"not one line: {message[:200]!r}"
    if str(folder) not in message:
        return f"names no file: {message[:200]}"
    return ""


@contextlib.contextmanager
def _all_warnings_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def _limited_memory() -> Iterator[None]:
    """Let this process have a gibibyte more than it has, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MAX_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
