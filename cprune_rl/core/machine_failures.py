"""Tells failures of a machine from those of a program that was tried on it.

A full disk, or a folder from which nothing can be loaded, fails every program alike. A cost cache
that kept such a failure as the program's would never try the program again.
"""

from __future__ import annotations

import re

__all__ = ["is_exhausted", "machine_failure", "remedy"]

_DISK = "a disk is full"
_MEMORY = "there is no memory left"
_LOADING = "a program cannot be written or loaded"
_SIGNS = {
    _DISK: (
        r"no space left",
        r"errno 28\b",
        r"quota exceeded",
    ),
    _MEMORY: (
        r"cannot allocate memory",
        r"can't allocate memory",
        r"errno 12\b",
        r"bad_alloc",
        r"memoryerror",
        r"memory exhausted",
        r"out of memory",
        r"signal 9\b",
    ),
    _LOADING: (
        r"failed to map segment",
        r"cannot open shared object",
        r"undefined symbol",
        r"glibc\w*_[\d.]+' not found",
        r"file too short",
        r"invalid elf header",
        r"wrong elf class",
        r"exec format error",
        r"read-only file system",
        r"permission denied",
        r"operation not permitted",
        r"no such file or directory",
        r"too many open files",
        r"errno (?:1|2|13|24|30)\b",
    ),
}


def machine_failure(text: str) -> str | None:
    """Say what is wrong with the machine, by the text of an error.

    Returns:
        A cause; None where the error does not speak of the machine.
    """
    lowered = text.lower()
    for cause, signs in _SIGNS.items():
        if any(re.search(sign, lowered) for sign in signs):
            return cause
    return None


def is_exhausted(text: str) -> bool:
    """Tell whether an error says that the disk or the memory is used up: no program is at fault."""
    return machine_failure(text) in (_DISK, _MEMORY)


def remedy(text: str, folder: str) -> str:
    """Say what to do about an error that is the machine's.

    Args:
        text: of the error.
        folder: where programs are written, in words.
    """
    cause = machine_failure(text)
    if cause == _DISK:
        return (
            f"Make room on the disk of {folder}, or set TMPDIR to a folder on another one: what "
            "was measured is kept."
        )
    if cause == _MEMORY:
        return "End other programs, or use a machine with more memory: what was measured is kept."
    return (
        f"Programs are written to {folder}: its disk may be full, read-only, gone, or mounted so "
        "that nothing on it can be run (noexec). Set TMPDIR to a folder elsewhere, e.g. "
        "TMPDIR=/var/tmp: what was measured is kept."
    )
