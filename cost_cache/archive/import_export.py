"""Costs out of a database into an archive, and back."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from cprune_rl.core.machine_failures import machine_failure
from cprune_rl.core.protocols import Measurement
from cprune_rl.core.untrusted import first_problem
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache.archive.file import Archive, OnLine, open_archive, write_archive
from cprune_rl.cost_cache.archive.schema import (
    AccuracyLine,
    ContentLine,
    Header,
    Kind,
    OperatorFields,
    ProvenanceFields,
    ScheduleLine,
    TrialLine,
    TuningLine,
    WorkloadLine,
)
from cprune_rl.cost_cache.engine import Database, matching_contexts
from cprune_rl.cost_cache.row_writer import RowWriter
from cprune_rl.cost_cache.sql_store import SqlStore
from cprune_rl.cost_cache.store import Provenance, StoredTrial, Tuning
from cprune_rl.cost_cache.tables import (
    ACCURACIES,
    PROVENANCES,
    SCHEDULES,
    TRIALS,
    TUNINGS,
    WORKLOADS,
)
from cprune_rl.errors import StoreError

__all__ = ["ExportFilter", "export_archive", "import_archive", "read_archive"]

_CHUNK = 1000
_TABLES: dict[Kind, sa.Table] = {
    "workload": WORKLOADS,
    "program": SCHEDULES,
    "trial": TRIALS,
    "tuning": TUNINGS,
    "accuracy": ACCURACIES,
}
Queries = dict[Kind, sa.Select[Any]]


@dataclass(frozen=True)
class ExportFilter:
    """What goes into an archive.

    Attributes:
        context: only contexts that contain this text; None for all.
        family: only workloads whose family contains this text; None for all.
        accuracies: oracles' answers too.
    """

    context: str | None = None
    family: str | None = None
    accuracies: bool = True


def export_archive(
    database: Database,
    path: Path,
    only: ExportFilter | None = None,
    on_line: OnLine | None = None,
) -> dict[str, int]:
    """Writes one state of the database, whatever others write meanwhile.

    Args:
        database: where the costs are.
        path: of the archive; one that is there is replaced.
        only: what is written; None for everything.
        on_line: called now and then with the number of lines written, and of all.

    Returns:
        How many lines of each kind were written.

    Raises:
        StoreError: no context or family fits, or a row is damaged.
        DataError: it would be larger than an archive may be.
    """
    only = only or ExportFilter()
    with database.reading() as connection:
        contexts = matching_contexts(connection, only.context)
        provenances = connection.execute(sa.select(PROVENANCES).order_by(PROVENANCES.c.id)).all()
        queries = _queries(connection, only, contexts)
        header = Header(
            created=time.time(),
            writer=ProvenanceFields(**vars(Provenance.here())),
            contexts=list(contexts.values()),
            provenances=[_provenance_fields(p) for p in provenances],
            counts={kind: _count(connection, query) for kind, query in queries.items()},
        )
        context_positions = {context_id: at for at, context_id in enumerate(contexts)}
        provenance_positions = {p.id: at for at, p in enumerate(provenances)}
        encoder = _RowEncoder(context_positions, provenance_positions)
        lines = _lines(connection, queries, encoder)
        write_archive(path, header, _counted(lines, sum(header.counts.values()), on_line))
    return {str(kind): n for kind, n in header.counts.items()}


def import_archive(database: Database, path: Path, on_line: OnLine | None = None) -> dict[str, int]:
    """Adds what an archive holds, in one transaction. What is there stays, so twice is once.

    Args:
        database: where the costs go.
        path: of the archive; all of it is checked first.
        on_line: called now and then with the lines done, and of how many: first as they are
            checked, again as they are added.

    Returns:
        How many rows of each kind were added.

    Raises:
        DataError: the file is missing, damaged, cut off, tampered with, or no archive.
    """
    with open_archive(path, on_line) as archive, database.writing(alone=True) as connection:
        before = _table_sizes(connection)
        importer = _Importer(database, connection, archive.header)
        n_done = 0
        for chunk in _chunks(archive):
            importer.add(chunk)
            n_done += len(chunk)
            if on_line is not None:
                on_line(n_done, archive.n_lines)
        after = _table_sizes(connection)
    return {kind: after[kind] - before[kind] for kind in _TABLES}


def read_archive(path: Path) -> SqlStore:
    """An archive as a cost store in memory, which ends with the process.

    Raises:
        DataError: the file is missing, damaged, cut off, tampered with, or no archive.
    """
    store = SqlStore("sqlite://")
    try:
        import_archive(store.database, path)
    except BaseException:
        store.close()
        raise
    return store


def _queries(connection: sa.Connection, only: ExportFilter, contexts: Iterable[int]) -> Queries:
    """What to export, in the order of an archive."""
    trials = (
        sa.select(TRIALS, WORKLOADS.c.key)
        .join_from(TRIALS, WORKLOADS)
        .where(TRIALS.c.context_id.in_(contexts))
    )
    tunings = (
        sa.select(TUNINGS, WORKLOADS.c.key)
        .join_from(TUNINGS, WORKLOADS)
        .where(TUNINGS.c.context_id.in_(contexts))
    )
    workloads = sa.select(WORKLOADS).where(WORKLOADS.c.family.is_not(None))
    if only.family is not None:
        of_family = WORKLOADS.c.family.in_(_matching_families(connection, only.family))
        trials = trials.where(of_family)
        tunings = tunings.where(of_family)
        workloads = workloads.where(of_family)
    if only.context is not None:
        tried = trials.with_only_columns(TRIALS.c.workload_id)
        workloads = workloads.where(WORKLOADS.c.id.in_(tried))
    tried = trials.with_only_columns(TRIALS.c.trace_digest)
    schedules = sa.select(SCHEDULES).where(SCHEDULES.c.digest.in_(tried))
    queries: Queries = {
        "workload": workloads.order_by(WORKLOADS.c.id),
        "program": schedules.order_by(SCHEDULES.c.digest),
        "trial": trials.order_by(TRIALS.c.id),
        "tuning": tunings.order_by(
            TUNINGS.c.context_id, TUNINGS.c.workload_id, TUNINGS.c.tuning_key
        ),
    }
    if only.accuracies:
        queries["accuracy"] = sa.select(ACCURACIES).order_by(ACCURACIES.c.key)
    return queries


def _matching_families(connection: sa.Connection, text: str) -> list[str]:
    query = sa.select(WORKLOADS.c.family).where(WORKLOADS.c.family.is_not(None)).distinct()
    families = connection.execute(query).scalars().all()
    matching = [family for family in families if text in family]
    if not matching:
        raise StoreError(
            f"no family holds {text!r}; there are: {'; '.join(sorted(families)) or 'none'}"
        )
    return matching


def _count(connection: sa.Connection, query: sa.Select[Any]) -> int:
    rows = query.order_by(None).subquery()
    return int(connection.execute(sa.select(sa.func.count()).select_from(rows)).scalar_one())


def _table_sizes(connection: sa.Connection) -> dict[Kind, int]:
    return {kind: _count(connection, sa.select(table)) for kind, table in _TABLES.items()}


@dataclass(frozen=True)
class _RowEncoder:
    """Makes lines of rows: ids become positions in the header's lists.

    Attributes:
        contexts: position by id.
        provenances: position by id.
    """

    contexts: dict[int, int]
    provenances: dict[int, int]

    def line(self, kind: Kind, row: sa.Row[Any]) -> ContentLine:
        if kind == "workload":
            return _workload_line(row)
        if kind == "program":
            return ScheduleLine(digest=row.digest, trace=row.trace)
        if kind == "trial":
            return TrialLine(
                context=self.contexts[row.context_id],
                workload=row.key,
                program=row.trace_digest,
                provenance=self.provenances[row.provenance_id],
                samples_s=json.loads(row.samples_s),
                error=row.error,
                reference_s=row.reference_s,
                created=row.created,
            )
        if kind == "tuning":
            return TuningLine(
                context=self.contexts[row.context_id],
                workload=row.key,
                recipe=row.tuning_key,
                programs=json.loads(row.trace_digests),
                seconds=row.seconds,
                created=row.created,
            )
        return AccuracyLine(**row._mapping)


def _provenance_fields(row: sa.Row[Any]) -> ProvenanceFields:
    return ProvenanceFields(
        version=row.version, processor=row.processor, os=row.os, python=row.python
    )


def _workload_line(row: sa.Row[Any]) -> WorkloadLine:
    operator = OperatorFields(
        name=row.operator, kernel=row.kernel, stride=row.stride, height=row.height
    )
    return WorkloadLine(
        key=row.key,
        family=row.family,
        channels_in=row.channels_in,
        channels_out=row.channels_out,
        macs=row.macs,
        operator=operator,
    )


def _lines(
    connection: sa.Connection, queries: Queries, encoder: _RowEncoder
) -> Iterator[ContentLine]:
    for kind, query in queries.items():
        for row in connection.execution_options(yield_per=_CHUNK).execute(query):
            try:
                yield encoder.line(kind, row)
            except ValidationError as error:
                raise _export_error(kind, first_problem(error)) from error
            except ValueError as error:  # of JSON
                raise _export_error(kind, str(error)) from error


def _export_error(kind: Kind, problem: str) -> StoreError:
    return StoreError(
        f"a {kind} cannot be exported ({problem}): `cprune-rl cache verify` tells more"
    )


def _counted(
    lines: Iterable[ContentLine], n_lines: int, on_line: OnLine | None
) -> Iterator[ContentLine]:
    for number, line in enumerate(lines, start=1):
        if on_line is not None and number % _CHUNK == 0:
            on_line(number, n_lines)
        yield line


def _chunks(archive: Archive) -> Iterator[list[ContentLine]]:
    """The lines of an archive, each chunk of one kind."""
    for _, lines in itertools.groupby(archive.content(), key=lambda line: line.kind):
        while chunk := list(itertools.islice(lines, _CHUNK)):
            yield chunk


class _Importer:
    """Adds lines to a database: positions in the header's lists become values."""

    def __init__(self, database: Database, connection: sa.Connection, header: Header) -> None:
        self._insert_accuracy = database.insert(ACCURACIES).on_conflict_do_nothing()
        self._connection = connection
        self._writer = RowWriter(database, connection, Provenance.here())
        self._contexts = header.contexts
        self._provenances = [Provenance(**p.model_dump()) for p in header.provenances]

    def add(self, chunk: list[ContentLine]) -> None:
        """Adds lines of one kind."""
        trials: dict[str, list[StoredTrial]] = {}
        traces: dict[str, str] = {}
        accuracies = []
        for line in chunk:
            if isinstance(line, TrialLine):
                if line.error is not None and machine_failure(line.error) is not None:
                    continue  # of somebody's machine: the program is tried again here
                trials.setdefault(self._contexts[line.context], []).append(self._trial(line))
            elif isinstance(line, ScheduleLine):
                traces[line.digest] = line.trace
            elif isinstance(line, TuningLine):
                tuning = Tuning(
                    key=line.tuning_key,
                    trace_digests=tuple(line.trace_digests),
                    seconds=line.seconds,
                    created=line.created,
                )
                self._writer.add_tuning(self._contexts[line.context], line.workload, tuning)
            elif isinstance(line, AccuracyLine):
                accuracies.append(line.model_dump(exclude={"kind"}))
        self._writer.describe(_workload(line) for line in chunk if isinstance(line, WorkloadLine))
        self._writer.add_schedules(traces)
        for context, of_context in trials.items():
            self._writer.add_trials(context, of_context)
        if accuracies:
            self._connection.execute(self._insert_accuracy, accuracies)

    def _trial(self, line: TrialLine) -> StoredTrial:
        return StoredTrial(
            workload=line.workload,
            trace_digest=line.trace_digest,
            trace_json="",
            measurement=Measurement(tuple(line.samples_s), line.error, line.reference_s),
            provenance=self._provenances[line.provenance],
            created=line.created,
        )


def _workload(line: WorkloadLine) -> Workload:
    return Workload(
        key=line.key,
        family=line.family,
        channels_in=line.channels_in,
        channels_out=line.channels_out,
        macs=line.macs,
        operator=OperatorKind(**line.operator.model_dump()),
    )
