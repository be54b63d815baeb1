"""Whether a cost cache is sound, and making it smaller."""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cprune_rl.core.protocols import Measurement
from cprune_rl.cost_cache.archive.import_export import matching_contexts
from cprune_rl.cost_cache.archive.safe_traces import trace_problem
from cprune_rl.cost_cache.archive.schema import is_program
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.row_writer import latency_of
from cprune_rl.cost_cache.tables import (
    CONTEXTS,
    PROGRAMS,
    PROVENANCES,
    SCHEMA_VERSION,
    STAMP,
    TRIALS,
    TUNINGS,
    WORKLOADS,
    key_digest,
    revision,
)
from cprune_rl.errors import StoreError

__all__ = ["Pruned", "Rules", "find_damage", "prune"]

_CHUNK = 1000
_DAY_S = 86_400.0


@dataclass(frozen=True)
class Rules:
    """Which trials go: those that any rule names.

    Attributes:
        keep: all but this many of the fastest of each workload and context; None for no such rule.
        older_than_days: those made longer ago; None for no such rule.
        context: only of contexts that hold this text; without another rule, all of theirs.
    """

    keep: int | None = None
    older_than_days: float | None = None
    context: str | None = None


@dataclass(frozen=True)
class Pruned:
    """What went.

    Attributes:
        n_trials: trials.
        n_programs: programs that no trial is left of.
        n_workloads: workloads that nothing is left of.
        n_tunings: tunings that claimed a trial that went; their recipes will be carried through
            again.
    """

    n_trials: int
    n_programs: int
    n_workloads: int
    n_tunings: int


def find_damage(database: Database) -> list[str]:
    """Looks at every row.

    Args:
        database: to look at; it may be written meanwhile.

    Returns:
        What is wrong, one sentence each; empty where all is sound.
    """
    with database.reading() as connection:
        return [
            *_file_damage(database, connection),
            *_row_damage(connection.execution_options(yield_per=_CHUNK)),
        ]


def _row_damage(connection: sa.Connection) -> Iterator[str]:
    stamp = connection.execute(sa.select(STAMP.c.version_num)).scalar_one_or_none()
    if stamp != revision(SCHEMA_VERSION):
        yield f"the migration stamp is {stamp!r}, {revision(SCHEMA_VERSION)!r} is expected"
    for digest, trace in connection.execute(sa.select(PROGRAMS.c.digest, PROGRAMS.c.trace)):
        if not is_program(digest, trace):
            yield f"program {digest} is not the one that its digest names"
        elif problem := trace_problem(trace):
            yield f"program {digest}: {problem}"
    for digest, key in connection.execute(sa.select(WORKLOADS.c.digest, WORKLOADS.c.key)):
        if key_digest(key) != digest:
            yield f"workload {key[:60]!r} is not the one that its digest names"
    for trial in connection.execute(sa.select(TRIALS)):
        if problem := _trial_problem(trial):
            yield f"trial {trial.id}: {problem}"
    for tuning in _dangling(connection):
        yield f"tuning {tuning.recipe!r} of workload {tuning.workload_id} claims a program that has no trial"


def prune(database: Database, rules: Rules, *, dry_run: bool = False) -> Pruned:
    """Removes trials, and what nothing refers to any more, in one transaction.

    Args:
        database: to make smaller.
        rules: which trials go.
        dry_run: count, and change nothing.

    Raises:
        StoreError: no rule is given, or no context fits.
    """
    if rules == Rules():
        raise StoreError("nothing says what to remove: give --keep, --older-than or --context")
    with database.writing(alone=True) as connection:
        done = _prune(connection, rules)
        if dry_run:
            connection.rollback()
    if not dry_run and database.path is not None:
        _vacuum(database.path)
    return done


def _prune(connection: sa.Connection, rules: Rules) -> Pruned:
    rank = (
        sa.func.row_number()
        .over(
            partition_by=(TRIALS.c.context_id, TRIALS.c.workload_id),
            order_by=(TRIALS.c.latency_s.is_(None), TRIALS.c.latency_s, TRIALS.c.id),
        )
        .label("rank")
    )
    ranked = (
        sa.select(TRIALS.c.id, TRIALS.c.created, rank)
        .where(TRIALS.c.context_id.in_(matching_contexts(connection, rules.context)))
        .subquery()
    )
    named = [] if rules.keep is None else [ranked.c.rank > rules.keep]
    if rules.older_than_days is not None:
        named.append(ranked.c.created < time.time() - rules.older_than_days * _DAY_S)
    doomed = sa.select(ranked.c.id).where(sa.or_(*named) if named else sa.true())
    n_trials = connection.execute(sa.delete(TRIALS).where(TRIALS.c.id.in_(doomed))).rowcount
    dangling = _dangling(connection)
    for t in dangling:
        connection.execute(
            sa.delete(TUNINGS).where(
                TUNINGS.c.context_id == t.context_id,
                TUNINGS.c.workload_id == t.workload_id,
                TUNINGS.c.recipe == t.recipe,
            )
        )
    n_programs = _delete_unused(connection, PROGRAMS.c.digest, TRIALS.c.program)
    n_workloads = _delete_unused(
        connection, WORKLOADS.c.id, TRIALS.c.workload_id, TUNINGS.c.workload_id
    )
    _delete_unused(connection, CONTEXTS.c.id, TRIALS.c.context_id, TUNINGS.c.context_id)
    _delete_unused(connection, PROVENANCES.c.id, TRIALS.c.provenance_id)
    return Pruned(n_trials, n_programs, n_workloads, len(dangling))


def _delete_unused(
    connection: sa.Connection, column: sa.Column[Any], *users: sa.Column[Any]
) -> int:
    unused = [column.not_in(sa.select(user)) for user in users]
    return connection.execute(sa.delete(column.table).where(*unused)).rowcount


def _dangling(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Tunings that claim a program which has no trial."""
    trials = {
        (t.context_id, t.workload_id, t.program)
        for t in connection.execute(
            sa.select(TRIALS.c.context_id, TRIALS.c.workload_id, TRIALS.c.program)
        )
    }
    return [
        t
        for t in connection.execute(sa.select(TUNINGS))
        if any((t.context_id, t.workload_id, p) not in trials for p in json.loads(t.programs))
    ]


def _file_damage(database: Database, connection: sa.Connection) -> Iterator[str]:
    if database.is_sqlite:
        for (found,) in connection.exec_driver_sql("PRAGMA integrity_check"):
            if found != "ok":
                yield f"SQLite: {found}"
        for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
            yield f"row {row[1]} of {row[0]} refers to a row of {row[2]} that is not there"


def _trial_problem(trial: sa.Row[Any]) -> str | None:
    try:
        samples = json.loads(trial.samples_s)
        measurement = Measurement(tuple(float(s) for s in samples), trial.error, trial.reference_s)
    except (TypeError, ValueError):
        return "its samples are no list of numbers"
    if any(not math.isfinite(s) or s <= 0 for s in measurement.samples_s):
        return "a sample is not a positive number of seconds"
    if latency_of(measurement) != trial.latency_s:
        return "its latency is not the median of its samples"
    return (
        None
        if math.isfinite(trial.reference_s) and trial.reference_s >= 0
        else "its reference is no number of seconds"
    )


def _vacuum(path: Path) -> None:
    """Gives room back to the disk;

    where another process works meanwhile, later rows use it instead.
    """
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, timeout=2, isolation_level=None)) as connection,
    ):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
