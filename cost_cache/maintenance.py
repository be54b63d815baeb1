"""Whether a cost cache is sound, and making it smaller."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cprune_rl.core.json_text import parse_list
from cprune_rl.core.machine_failures import machine_failure
from cprune_rl.core.protocols import Measurement
from cprune_rl.cost_cache.archive.safe_traces import trace_problem
from cprune_rl.cost_cache.archive.schema import digest_fits
from cprune_rl.cost_cache.engine import Database, matching_contexts
from cprune_rl.cost_cache.row_writer import stored_latency
from cprune_rl.cost_cache.tables import (
    CONTEXTS,
    PROVENANCES,
    SCHEDULES,
    SCHEMA_VERSION,
    STAMP,
    TRIALS,
    TUNINGS,
    WORKLOADS,
    key_digest,
    revision,
)
from cprune_rl.errors import StoreError

__all__ = [
    "RemovalRules",
    "RemovedRows",
    "find_damage",
    "remove_machine_failures",
    "remove_trials",
]

_CHUNK = 1000
_DAY_S = 86_400.0
Columns = Sequence[sa.Column[Any]]


@dataclass(frozen=True)
class RemovalRules:
    """Which trials are removed: those that any rule names.

    Attributes:
        keep: all but this many of the fastest of each workload and context; None for no such rule.
        older_than_days: those made longer ago; None for no such rule.
        context: only of contexts that contain this text; without another rule, all of theirs.
    """

    keep: int | None = None
    older_than_days: float | None = None
    context: str | None = None


@dataclass(frozen=True, kw_only=True)
class RemovedRows:
    """What was removed.

    Attributes:
        n_trials: trials.
        n_schedules: schedules that no trial is left of.
        n_workloads: workloads that nothing is left of.
        n_tunings: tunings that claimed a removed trial; they will be repeated.
    """

    n_trials: int
    n_schedules: int
    n_workloads: int
    n_tunings: int


def find_damage(database: Database) -> list[str]:
    """Checks every row; others may write meanwhile.

    Returns:
        What is wrong, one sentence each; empty where all is sound.
    """
    with database.reading() as connection:
        file_damage = list(_file_damage(connection)) if database.is_sqlite else []
        return [*file_damage, *_row_damage(connection.execution_options(yield_per=_CHUNK))]


def remove_trials(database: Database, rules: RemovalRules, *, dry_run: bool = False) -> RemovedRows:
    """Removes trials, and what nothing refers to any more, in one transaction.

    Args:
        database: to make smaller.
        rules: which trials go.
        dry_run: count, and change nothing.

    Raises:
        StoreError: no rule is given, or no context fits.
    """
    if rules == RemovalRules():
        raise StoreError("nothing says what to remove: give --keep, --older-than or --context")
    with database.writing(alone=True) as connection:
        removed = _remove(connection, rules)
        if dry_run:
            connection.rollback()
    if not dry_run and database.path is not None:
        _vacuum(database.path)
    return removed


def remove_machine_failures(database: Database) -> tuple[RemovedRows, str]:
    """Removes failures of a machine that were kept as the programs' own, in one transaction.

    Returns:
        What was removed, and the commonest of the failures; empty where there was none.
    """
    with database.reading() as connection:
        failures = _machine_failures(connection)
    if not failures:
        return RemovedRows(n_trials=0, n_schedules=0, n_workloads=0, n_tunings=0), ""
    with database.writing(alone=True) as connection:
        failures = _machine_failures(connection)
        ids = list(failures)
        n_trials = 0
        for start in range(0, len(ids), _CHUNK):
            chunk = ids[start : start + _CHUNK]
            n_trials += connection.execute(sa.delete(TRIALS).where(TRIALS.c.id.in_(chunk))).rowcount
        removed = _remove_what_is_left_over(connection, n_trials)
    ((commonest, _),) = Counter(failures.values()).most_common(1)
    return removed, commonest


def _machine_failures(connection: sa.Connection) -> dict[int, str]:
    """Errors of trials that speak of the machine, by the trials' ids."""
    failed = sa.select(TRIALS.c.id, TRIALS.c.error).where(TRIALS.c.error.is_not(None))
    return {
        row.id: row.error
        for row in connection.execute(failed)
        if machine_failure(row.error) is not None
    }


def _file_damage(connection: sa.Connection) -> Iterator[str]:
    for (finding,) in connection.exec_driver_sql("PRAGMA integrity_check"):
        if finding != "ok":
            yield f"SQLite: {finding}"
    for table, row_id, parent, _ in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield f"row {row_id} of {table} refers to a row of {parent} that is not there"


def _row_damage(connection: sa.Connection) -> Iterator[str]:
    stamp = connection.execute(sa.select(STAMP.c.version_num)).scalar_one_or_none()
    if stamp != revision(SCHEMA_VERSION):
        yield f"the migration stamp is {stamp!r}, {revision(SCHEMA_VERSION)!r} is expected"
    for digest, trace in connection.execute(sa.select(SCHEDULES.c.digest, SCHEDULES.c.trace)):
        if not isinstance(digest, str) or not isinstance(trace, str):
            yield f"schedule {str(digest)[:60]!r} is no text"
        elif not digest_fits(digest, trace):
            yield f"schedule {digest} is not the one that its digest names"
        elif problem := trace_problem(trace):
            yield f"schedule {digest}: {problem}"
    for digest, key in connection.execute(sa.select(WORKLOADS.c.digest, WORKLOADS.c.key)):
        if not isinstance(key, str) or key_digest(key) != digest:
            yield f"workload {str(key)[:60]!r} is not the one that its digest names"
    for trial in connection.execute(sa.select(TRIALS)):
        if problem := _trial_problem(trial):
            yield f"trial {trial.id}: {problem}"
    for tuning in _tunings_without_trials(connection):
        yield (
            f"tuning {tuning.tuning_key!r} of workload {tuning.workload_id} claims a schedule "
            "that has no trial"
        )


def _trial_problem(trial: sa.Row[Any]) -> str | None:
    try:
        samples_s = tuple(parse_list(trial.samples_s, float))
    except ValueError:
        return "its samples are no list of numbers"
    if any(not math.isfinite(s) or s <= 0 for s in samples_s):
        return "a sample is not a positive number of seconds"
    if stored_latency(Measurement(samples_s, trial.error)) != trial.latency_s:
        return "its latency is not the median of its samples"
    if not isinstance(trial.reference_s, float) or not 0 <= trial.reference_s < math.inf:
        return "its reference is no number of seconds"
    return None


def _remove(connection: sa.Connection, rules: RemovalRules) -> RemovedRows:
    removable = sa.delete(TRIALS).where(TRIALS.c.id.in_(_trials_to_remove(connection, rules)))
    return _remove_what_is_left_over(connection, connection.execute(removable).rowcount)


def _remove_what_is_left_over(connection: sa.Connection, n_trials: int) -> RemovedRows:
    """Removes what nothing refers to any more, after so many trials went."""
    tunings = _tunings_without_trials(connection)
    key = ("context_id", "workload_id", "tuning_key")
    for tuning in tunings:
        is_it = [TUNINGS.c[name] == getattr(tuning, name) for name in key]
        connection.execute(sa.delete(TUNINGS).where(*is_it))
    n_schedules = _remove_unused(connection, SCHEDULES.c.digest, [TRIALS.c.trace_digest])
    n_workloads = _remove_unused(
        connection, WORKLOADS.c.id, [TRIALS.c.workload_id, TUNINGS.c.workload_id]
    )
    _remove_unused(connection, CONTEXTS.c.id, [TRIALS.c.context_id, TUNINGS.c.context_id])
    _remove_unused(connection, PROVENANCES.c.id, [TRIALS.c.provenance_id])
    return RemovedRows(
        n_trials=n_trials,
        n_schedules=n_schedules,
        n_workloads=n_workloads,
        n_tunings=len(tunings),
    )


def _trials_to_remove(connection: sa.Connection, rules: RemovalRules) -> sa.Select[tuple[int]]:
    rank = sa.func.row_number().over(
        partition_by=(TRIALS.c.context_id, TRIALS.c.workload_id),
        order_by=(TRIALS.c.latency_s.is_(None), TRIALS.c.latency_s, TRIALS.c.id),
    )
    ranked = (
        sa.select(TRIALS.c.id, TRIALS.c.created, rank.label("rank"))
        .where(TRIALS.c.context_id.in_(matching_contexts(connection, rules.context)))
        .subquery()
    )
    conditions = []
    if rules.keep is not None:
        conditions.append(ranked.c.rank > rules.keep)
    if rules.older_than_days is not None:
        conditions.append(ranked.c.created < time.time() - rules.older_than_days * _DAY_S)
    return sa.select(ranked.c.id).where(sa.or_(*conditions) if conditions else sa.true())


def _remove_unused(connection: sa.Connection, column: sa.Column[Any], users: Columns) -> int:
    """Removes rows that no column refers to; gives how many."""
    unused = [column.not_in(sa.select(user)) for user in users]
    return connection.execute(sa.delete(column.table).where(*unused)).rowcount


def _tunings_without_trials(connection: sa.Connection) -> list[sa.Row[Any]]:
    """Tunings that claim a schedule which has no trial, or whose claims cannot be read."""
    key = (TRIALS.c.context_id, TRIALS.c.workload_id, TRIALS.c.trace_digest)
    trials = {tuple(row) for row in connection.execute(sa.select(*key))}
    tunings = []
    for tuning in connection.execute(sa.select(TUNINGS)):
        try:
            digests = parse_list(tuning.trace_digests, str)
        except ValueError:
            tunings.append(tuning)
            continue
        claimed = {(tuning.context_id, tuning.workload_id, digest) for digest in digests}
        if not claimed <= trials:
            tunings.append(tuning)
    return tunings


def _vacuum(path: Path) -> None:
    """Gives room back to the disk. If another process works meanwhile, later rows use it."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, timeout=2, isolation_level=None)) as connection,
    ):
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
