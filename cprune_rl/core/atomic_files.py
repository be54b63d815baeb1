"""Writes files whole or not at all: a full disk, or a kill, leaves what was there before."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["write_bytes", "write_text", "written_whole"]


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to. What is there at the end takes the place of `path`.

    Where the writing fails, nothing of it is left.
    """
    # An ending may decide what is written, so the name keeps its own.
    unfinished = path.with_name(f".{os.getpid()}.part.{path.name}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8. What no UTF-8 has, as names of files may, is escaped."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file."""
    with written_whole(path) as unfinished:
        unfinished.write_bytes(content)
