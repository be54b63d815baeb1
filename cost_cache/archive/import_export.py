"""Costs out of a database into a recording, and back."""

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

from cprune_rl.core.network import OperatorKind, Workload
from cprune_rl.core.protocols import Measurement
from cprune_rl.cost_cache.archive.file import OnLine, open_recording, write_lines
from cprune_rl.cost_cache.archive.schema import (
    AccuracyLine,
    ContentLine,
    Header,
    Kind,
    OperatorFields,
    ProgramLine,
    ProvenanceFields,
    TrialLine,
    TuningLine,
    WorkloadLine,
    problem_of,
)
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.row_writer import Writer
from cprune_rl.cost_cache.sql_store import SqlStore
from cprune_rl.cost_cache.store import Provenance, StoredTrial, Tuning
from cprune_rl.cost_cache.tables import (
    ACCURACIES,
    CONTEXTS,
    PROGRAMS,
    PROVENANCES,
    TRIALS,
    TUNINGS,
    WORKLOADS,
)
from cprune_rl.errors import StoreError

__all__ = [
    "Selection",
    "export_recording",
    "import_recording",
    "matching_contexts",
    "read_recording",
]

_CHUNK = 1000
_TABLES = {
    "workload": WORKLOADS,
    "program": PROGRAMS,
    "trial": TRIALS,
    "tuning": TUNINGS,
    "accuracy": ACCURACIES,
}


@dataclass(frozen=True)
class Selection:
    """What goes into a recording.

    Attributes:
        context: only contexts that hold this text; None for all.
        family: only workloads whose family holds this text; None for all.
        accuracies: oracle's answers too.
    """

    context: str | None = None
    family: str | None = None
    accuracies: bool = True


def export_recording(
    database: Database,
    path: Path,
    selection: Selection | None = None,
    on_line: OnLine | None = None,
) -> dict[str, int]:
    """Writes one state of the database, whatever others write meanwhile.

    Args:
        database: where the costs are.
        path: of the recording; one that is there is replaced.
        selection: what is written; None for everything.
        on_line: called now and then with the number of lines written, and of all.

    Returns:
        How many lines of each kind were written.

    Raises:
        StoreError: no context or family fits, or a row is damaged.
        DataError: it would be larger than a recording may be.
    """
    with database.reading() as connection:
        queries, contexts = _queries(connection, selection or Selection())
        counts: dict[Kind, int] = {
            kind: connection.execute(
                sa.select(sa.func.count()).select_from(q.order_by(None).subquery())
            ).scalar_one()
            for kind, q in queries.items()
        }
        provenances = connection.execute(sa.select(PROVENANCES).order_by(PROVENANCES.c.id)).all()
        lines = _Lines(
            {c: i for i, c in enumerate(contexts)}, {p.id: i for i, p in enumerate(provenances)}
        )
        who = [
            ProvenanceFields(version=p.version, processor=p.processor, os=p.os, python=p.python)
            for p in provenances
        ]
        header = Header(
            created=time.time(),
            writer=ProvenanceFields(**vars(Provenance.here())),
            contexts=list(contexts.values()),
            provenances=who,
            counts=counts,
        )
        write_lines(
            path, header, _told(lines.of(connection, queries), sum(counts.values()), on_line)
        )
    return {str(kind): n for kind, n in counts.items()}


def import_recording(
    database: Database, path: Path, on_line: OnLine | None = None
) -> dict[str, int]:
    """Adds what a recording holds, in one transaction; what is there stays, so twice is once.

    Args:
        database: where the costs go.
        path: of the recording; all of it is checked first.
        on_line: called now and then with the lines done, and of how many: first as they are
            checked, again as they are added.

    Returns:
        How many rows of each kind were added.

    Raises:
        DataError: the file is missing, damaged, cut off, tampered with, or no recording.
    """
    with open_recording(path, on_line) as recording, database.writing(alone=True) as connection:
        before = _counts(connection)
        writer = Writer(database, connection, Provenance.here())
        done = 0
        for kind, lines in itertools.groupby(recording.content(), key=lambda line: line.kind):
            while chunk := list(itertools.islice(lines, _CHUNK)):
                _import(database, connection, writer, recording.header, kind, chunk)
                done += len(chunk)
                if on_line is not None:
                    on_line(done, recording.n_lines)
        after = _counts(connection)
    return {kind: after[kind] - before[kind] for kind in _TABLES}


def read_recording(path: Path) -> SqlStore:
    """A recording as a cost store in memory, which ends with the process.

    Raises:
        DataError: the file is missing, damaged, cut off, tampered with, or no recording.
    """
    store = SqlStore("sqlite://")
    try:
        import_recording(store.database, path)
    except BaseException:
        store.close()
        raise
    return store


def matching_contexts(connection: sa.Connection, text: str | None) -> dict[int, str]:
    """Names of the contexts that hold a text, by id.

    Raises:
        StoreError: none does.
    """
    every = {
        row.id: row.name for row in connection.execute(sa.select(CONTEXTS).order_by(CONTEXTS.c.id))
    }
    found = {i: name for i, name in every.items() if text is None or text in name}
    if text is not None and not found:
        raise StoreError(
            f"no context holds {text!r}; there are: {'; '.join(sorted(every.values())) or 'none'}"
        )
    return found


def _queries(
    connection: sa.Connection, selection: Selection
) -> tuple[dict[Kind, sa.Select[Any]], dict[int, str]]:
    contexts = matching_contexts(connection, selection.context)
    trials = (
        sa.select(TRIALS, WORKLOADS.c.key)
        .join_from(TRIALS, WORKLOADS)
        .where(TRIALS.c.context_id.in_(contexts))
        .order_by(TRIALS.c.id)
    )
    tunings = (
        sa.select(TUNINGS, WORKLOADS.c.key)
        .join_from(TUNINGS, WORKLOADS)
        .where(TUNINGS.c.context_id.in_(contexts))
    )
    tunings = tunings.order_by(TUNINGS.c.context_id, TUNINGS.c.workload_id, TUNINGS.c.recipe)
    workloads = sa.select(WORKLOADS).where(WORKLOADS.c.family.is_not(None)).order_by(WORKLOADS.c.id)
    if selection.family is not None:
        every = (
            connection.execute(
                sa.select(WORKLOADS.c.family).where(WORKLOADS.c.family.is_not(None)).distinct()
            )
            .scalars()
            .all()
        )
        families = [f for f in every if selection.family in f]
        if not families:
            raise StoreError(
                f"no family holds {selection.family!r}; there are: {'; '.join(sorted(every)) or 'none'}"
            )
        trials, tunings, workloads = (
            q.where(WORKLOADS.c.family.in_(families)) for q in (trials, tunings, workloads)
        )
    if selection.context is not None:
        tried = trials.order_by(None).with_only_columns(TRIALS.c.workload_id)
        workloads = workloads.where(WORKLOADS.c.id.in_(tried))
    programs = (
        sa.select(PROGRAMS)
        .where(PROGRAMS.c.digest.in_(trials.order_by(None).with_only_columns(TRIALS.c.program)))
        .order_by(PROGRAMS.c.digest)
    )
    queries: dict[Kind, sa.Select[Any]] = {
        "workload": workloads,
        "program": programs,
        "trial": trials,
        "tuning": tunings,
    }
    if selection.accuracies:
        queries["accuracy"] = sa.select(ACCURACIES).order_by(ACCURACIES.c.key)
    return queries, contexts


class _Lines:
    """Rows to lines: ids become positions in the header's lists."""

    def __init__(self, contexts: dict[int, int], provenances: dict[int, int]) -> None:
        self._contexts, self._provenances = contexts, provenances

    def of(
        self, connection: sa.Connection, queries: dict[Kind, sa.Select[Any]]
    ) -> Iterator[ContentLine]:
        for kind, query in queries.items():
            for row in connection.execution_options(yield_per=_CHUNK).execute(query):
                try:
                    yield self._line(kind, row)
                except ValueError as error:
                    problem = (
                        problem_of(error) if isinstance(error, ValidationError) else str(error)
                    )
                    raise StoreError(
                        f"a {kind} cannot be exported ({problem}): `cprune-rl cache verify` tells more"
                    ) from error

    def _line(self, kind: Kind, r: sa.Row[Any]) -> ContentLine:
        if kind == "workload":
            operator = OperatorFields(
                name=r.operator, kernel=r.kernel, stride=r.stride, height=r.height
            )
            return WorkloadLine(
                key=r.key,
                family=r.family,
                channels_in=r.channels_in,
                channels_out=r.channels_out,
                macs=r.macs,
                operator=operator,
            )
        if kind == "program":
            return ProgramLine(digest=r.digest, trace=r.trace)
        if kind == "accuracy":
            return AccuracyLine(
                key=r.key,
                value=r.value,
                standard_error=r.standard_error,
                n_images=r.n_images,
                cost_s=r.cost_s,
                created=r.created,
            )
        context = self._contexts[r.context_id]
        if kind == "tuning":
            return TuningLine(
                context=context,
                workload=r.key,
                recipe=r.recipe,
                programs=json.loads(r.programs),
                seconds=r.seconds,
                created=r.created,
            )
        return TrialLine(
            context=context, workload=r.key, program=r.program, provenance=self._provenances[r.provenance_id],
            samples_s=json.loads(r.samples_s), error=r.error, reference_s=r.reference_s, created=r.created,
        )  # fmt: skip


def _told(
    lines: Iterable[ContentLine], n_lines: int, on_line: OnLine | None
) -> Iterator[ContentLine]:
    for number, line in enumerate(lines, start=1):
        if on_line is not None and number % _CHUNK == 0:
            on_line(number, n_lines)
        yield line


def _import(
    database: Database,
    connection: sa.Connection,
    writer: Writer,
    header: Header,
    kind: str,
    chunk: list[ContentLine],
) -> None:
    writer.describe(_workload(line) for line in chunk if isinstance(line, WorkloadLine))
    writer.programs({line.digest: line.trace for line in chunk if isinstance(line, ProgramLine)})
    trials: dict[str, list[StoredTrial]] = {}
    for line in chunk:
        if isinstance(line, TrialLine):
            trials.setdefault(header.contexts[line.context], []).append(_trial(line, header))
        elif isinstance(line, TuningLine):
            writer.tuning(
                header.contexts[line.context],
                line.workload,
                line.recipe,
                Tuning(tuple(line.programs), line.seconds, line.created),
            )
    for context, of_context in trials.items():
        writer.trials(context, of_context)
    if kind == "accuracy":
        connection.execute(
            database.insert(ACCURACIES).on_conflict_do_nothing(),
            [line.model_dump(exclude={"kind"}) for line in chunk],
        )


def _workload(line: WorkloadLine) -> Workload:
    operator = OperatorKind(**line.operator.model_dump())
    return Workload(line.key, line.family, line.channels_in, line.channels_out, line.macs, operator)


def _trial(line: TrialLine, header: Header) -> StoredTrial:
    provenance = Provenance(**header.provenances[line.provenance].model_dump())
    return StoredTrial(
        line.workload,
        line.program,
        "",
        Measurement(tuple(line.samples_s), line.error, line.reference_s),
        provenance,
        line.created,
    )


def _counts(connection: sa.Connection) -> dict[str, int]:
    return {
        kind: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        for kind, table in _TABLES.items()
    }
