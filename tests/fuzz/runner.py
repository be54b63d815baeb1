"""Reads damaged files, and tells what went wrong: anything but an error of the tree, in a line."""

from __future__ import annotations

import contextlib
import os
import posix
import resource
import socket
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from cprune_rl.errors import CPruneError
from tests.fuzz.mutations import Mutator

__all__ = ["Findings", "Format", "read_damaged"]

_MAX_BYTES = 1 << 30  # that reading may ask for
_RUNS = (
    (os, "system"),
    (posix, "system"),
    (os, "posix_spawn"),
    (os, "execv"),
    (os, "fork"),
    (subprocess, "Popen"),
    (socket, "create_connection"),
)
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


@contextlib.contextmanager
def _watched() -> Iterator[list[str]]:
    """Note what is run inside; an audit hook would stay, and slow all other tests down."""
    ran: list[str] = []
    with contextlib.ExitStack() as patches:
        for module, name in _RUNS:

            def note(*_: object, what: str = f"{module.__name__}.{name}", **__: object) -> None:
                ran.append(what)
                raise PermissionError(f"{what} was called")

            patches.enter_context(mock.patch.object(module, name, note))
        yield ran


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
    with _watched() as ran:
        try:
            kind.read(folder)
        except CPruneError as error:
            fault = _unclear(str(error), folder)
        except Exception as error:
            fault = _place(error)
        else:
            fault = None
    return f"it ran {ran[0]}" if ran else fault


def _place(error: Exception) -> str:
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    frame = "" if where is None else f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
    return f"{type(error).__name__} at {frame}: {str(error)[:100]}"


def _unclear(message: str, folder: Path) -> str:
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
