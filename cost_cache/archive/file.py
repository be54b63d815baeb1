"""An archive of costs: one compressed file, to hand over, to keep, or to run without a device.

It is gzip of JSON lines (`schema` has their fields): a header, described workloads, schedules,
trials, tunings, accuracies, and an end with the SHA-256 of all bytes before it.

The checksum tells damage, not an author. Reading a stranger's archive runs nothing, and its
schedules hold only instructions that ours have. But they are run once a task asks for them, and its
figures are believed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pydantic import ValidationError

from cprune_rl.core.untrusted import first_problem
from cprune_rl.cost_cache.archive.schema import (
    LINES,
    MAX_LINE_BYTES,
    ContentLine,
    EndLine,
    Header,
    ScheduleLine,
    TrialLine,
    TuningLine,
)
from cprune_rl.errors import DataError, StoreError

__all__ = ["MAX_BYTES", "Archive", "OnLine", "open_archive", "write_archive"]

MAX_BYTES = 4 * 2**30  # of content, before compression: a small file must not become an endless one
_ORDER = ("workload", "program", "trial", "tuning", "accuracy", "end")
_LINES_PER_CALL = 500
OnLine = Callable[[int, int], None]  # lines done, of how many


class Archive:
    """An open archive. Whoever has one knows that it is whole, unchanged and well-formed.

    Attributes:
        header: what the file says of itself.
        n_lines: between header and end.

    Args:
        path: of the file, for messages.
        file: the same, open and decompressing.
        on_line: called now and then with the number of lines checked, and of all.
    """

    def __init__(self, path: Path, file: gzip.GzipFile, on_line: OnLine | None = None) -> None:
        self._path = path
        self._file = file
        self.header = self._header()
        self.n_lines = sum(self.header.counts.values())
        for n_done, _ in enumerate(self.content(), start=1):
            if on_line is not None and n_done % _LINES_PER_CALL == 0:
                on_line(n_done, self.n_lines)

    def content(self) -> Iterator[ContentLine]:
        """Every line between header and end, checked again as it is read.

        Raises:
            DataError: a line is not what it should be, or the checksum does not fit.
        """
        self._file.seek(0)
        order = _LineOrder(self.header)
        digest = hashlib.sha256()
        size = 0
        for number, raw in enumerate(self._raw_lines(), start=1):
            size += len(raw)
            if size > MAX_BYTES:
                raise self._error(f"it holds more than {MAX_BYTES} bytes")
            if number > 1:
                try:
                    line = self._checked(raw, order, digest.hexdigest())
                except ValidationError as error:
                    raise self._error(first_problem(error), number) from error
                except ValueError as error:
                    raise self._error(str(error), number) from error
                if line is None:
                    return
                yield line
            digest.update(raw)
        raise self._error("it ends in the middle")

    def _checked(self, raw: bytes, order: _LineOrder, sha256: str) -> ContentLine | None:
        """The line; None at the end of the archive."""
        line = LINES.validate_json(raw)
        if not isinstance(line, EndLine):
            order.check(line)
            return line
        order.check_end(line, sha256)
        if self._unpacked(self._file.read, 1):
            raise ValueError("something follows the end")
        return None

    def _header(self) -> Header:
        raw = next(self._raw_lines(), b"")
        try:
            return Header.model_validate_json(raw)
        except ValidationError as error:
            problem = first_problem(error)
            raise self._error(
                f"it does not begin as an archive of this version does ({problem})", line=1
            ) from error

    def _raw_lines(self) -> Iterator[bytes]:
        while True:
            raw = self._unpacked(self._file.readline, MAX_LINE_BYTES + 1)
            if not raw:
                return
            if not raw.endswith(b"\n"):
                raise self._error(f"a line is longer than {MAX_LINE_BYTES} bytes, or cut off")
            yield raw

    def _unpacked(self, read: Callable[[int], bytes], n_bytes: int) -> bytes:
        try:
            return read(n_bytes)
        except (OSError, EOFError, zlib.error) as error:
            raise self._error(f"it cannot be decompressed ({error})") from error

    def _error(self, problem: str, line: int | None = None) -> DataError:
        where = "" if line is None else f", line {line}"
        return DataError(
            f"{self._path}{where}: {problem}. Nothing was taken from it: fetch the file again, or "
            "export it anew with `cprune-rl cache export`"
        )


class _LineOrder:
    """Checks that lines fit each other: in order, as many as announced, naming what is there."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self._counts: Counter[str] = Counter()
        self._trace_digests: set[str] = set()
        self._last = 0

    def check(self, line: ContentLine) -> None:
        position = _ORDER.index(line.kind)
        if position < self._last:
            raise ValueError(f"a {line.kind} stands after a {_ORDER[self._last]}")
        self._last = position
        self._counts[line.kind] += 1
        if self._counts[line.kind] > self._header.counts.get(line.kind, 0):
            raise ValueError(f"there are more lines of kind {line.kind} than the header says")
        if isinstance(line, ScheduleLine):
            self._trace_digests.add(line.digest)
        if isinstance(line, (TrialLine, TuningLine)) and line.context >= len(self._header.contexts):
            raise ValueError(f"the header has no context {line.context}")
        if isinstance(line, TrialLine):
            if line.provenance >= len(self._header.provenances):
                raise ValueError(f"the header has no provenance {line.provenance}")
            if line.trace_digest not in self._trace_digests:
                raise ValueError(f"schedule {line.trace_digest!r} is not in the archive")

    def check_end(self, line: EndLine, sha256: str) -> None:
        announced = Counter({kind: n for kind, n in self._header.counts.items() if n})
        if self._counts != announced:
            raise ValueError(f"the header says {dict(announced)}, there are {dict(self._counts)}")
        if line.sha256 != sha256:
            raise ValueError(
                f"the checksum is {line.sha256[:12]}..., the content's is {sha256[:12]}..."
            )


@contextlib.contextmanager
def open_archive(path: Path, on_line: OnLine | None = None) -> Iterator[Archive]:
    """Opens an archive and checks all of it.

    Args:
        path: of the file.
        on_line: called now and then with the number of lines checked, and of all.

    Raises:
        DataError: the file is missing, damaged, cut off, tampered with, or no archive.
    """
    try:
        file = gzip.GzipFile(path, "rb")  # closed below
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error
    with file:
        yield Archive(path, file, on_line)


def write_archive(path: Path, header: Header, lines: Iterable[ContentLine]) -> None:
    """Writes an archive, which appears under its name once it is whole.

    Args:
        path: of the file; one that is there is replaced.
        header: first line.
        lines: what follows, in the order of an archive.

    Raises:
        StoreError: the file cannot be written.
        DataError: it would be larger than an archive may be.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with (
            unfinished.open("wb") as file,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
        ):
            _write_lines(packed, itertools.chain([header], lines))
            packed.close()
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error}. "
            "Nothing was left there: free some space, or name another file"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _write_lines(packed: gzip.GzipFile, lines: Iterable[Header | ContentLine]) -> None:
    digest = hashlib.sha256()
    size = 0
    for line in lines:
        raw = _encoded(line)
        digest.update(raw)
        size += len(raw)
        if size > MAX_BYTES:
            raise DataError(
                f"an archive holds at most {MAX_BYTES} bytes: export less at once, with --context "
                "or --family"
            )
        packed.write(raw)
    packed.write(_encoded(EndLine(sha256=digest.hexdigest())))


def _encoded(line: Header | ContentLine | EndLine) -> bytes:
    return line.model_dump_json(by_alias=True).encode() + b"\n"
