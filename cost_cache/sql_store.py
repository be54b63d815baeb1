"""The cost store on SQLAlchemy: in memory, a SQLite file that processes share, or PostgreSQL."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import sqlalchemy as sa

from cprune_rl.core.folders import cache_folder
from cprune_rl.core.json_text import parse_list
from cprune_rl.core.protocols import Accuracy
from cprune_rl.core.untrusted import printable
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.row_writer import RowWriter, trial_from_row, workload_from_row
from cprune_rl.cost_cache.store import ContextSummary, CostStore, Provenance, StoredTrial, Tuning
from cprune_rl.cost_cache.tables import (
    ACCURACIES,
    CONTEXTS,
    PROVENANCES,
    SCHEDULES,
    TRIALS,
    TUNINGS,
    WORKLOADS,
    key_digest,
)
from cprune_rl.errors import StoreError

__all__ = ["SqlStore", "default_url", "open_store"]

_WHOLE_TRIAL = (
    TRIALS,
    WORKLOADS.c.key,
    SCHEDULES.c.trace,
    PROVENANCES.c.version,
    PROVENANCES.c.processor,
    PROVENANCES.c.os,
    PROVENANCES.c.python,
)
_JOINED = TRIALS.join(CONTEXTS).join(WORKLOADS).join(SCHEDULES).join(PROVENANCES)


def default_url() -> str:
    """The default storage: `CPRUNE_RL_STORAGE`, or a file in the user's cache folder."""
    if url := os.environ.get("CPRUNE_RL_STORAGE"):
        return url
    return f"sqlite:///{cache_folder() / 'costs.db'}"


def open_store(storage: str | CostStore | None) -> CostStore:
    """Opens a cost store.

    Args:
        storage: None for one in memory, a URL such as `sqlite:///costs.db` or
            `postgresql+psycopg://user@host/name`, or a store, which is returned.

    Raises:
        StoreError: it is no cost cache, is of another schema, or cannot be reached or written.
    """
    if storage is None:
        return SqlStore("sqlite://")
    return SqlStore(storage) if isinstance(storage, str) else storage


class SqlStore:
    """A `CostStore` in a database.

    Args:
        url: an SQLAlchemy URL; `sqlite://` is in memory.
        create: make the tables where there are none.

    Raises:
        StoreError: it is no cost cache, is of another schema, or cannot be reached or written.
    """

    def __init__(self, url: str, *, create: bool = True) -> None:
        self.database = Database(url, create=create)
        self._provenance = Provenance.here()

    def add_trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        if trials:
            with self.database.writing() as connection:
                writer = self._writer(connection)
                writer.add_schedules({t.trace_digest: t.trace_json for t in trials})
                writer.add_trials(context, trials)

    def trials(self, context: str, workload: str) -> list[StoredTrial]:
        query = (
            sa.select(*_WHOLE_TRIAL)
            .select_from(_JOINED)
            .where(CONTEXTS.c.name == context, WORKLOADS.c.digest == key_digest(workload))
            .order_by(TRIALS.c.latency_s.is_(None), TRIALS.c.latency_s, TRIALS.c.id)
        )
        with self._sound_rows():
            return [trial_from_row(row) for row in self._rows(query)]

    def describe(self, workloads: Sequence[Workload]) -> None:
        if workloads:
            with self.database.writing() as connection:
                self._writer(connection).describe(workloads)

    def fastest(
        self, context: str, family: str | None = None
    ) -> list[tuple[Workload, StoredTrial]]:
        by_latency = (TRIALS.c.latency_s, TRIALS.c.id)
        rank = sa.func.row_number().over(partition_by=TRIALS.c.workload_id, order_by=by_latency)
        ranked = (
            sa.select(TRIALS.c.id, rank.label("rank"))
            .join(CONTEXTS)
            .join(WORKLOADS)
            .where(
                CONTEXTS.c.name == context,
                TRIALS.c.latency_s.is_not(None),
                WORKLOADS.c.family.is_not(None),
            )
        )
        if family is not None:
            ranked = ranked.where(WORKLOADS.c.family == family)
        best = ranked.subquery()
        description = [c for c in WORKLOADS.c if c.name not in ("id", "key")]
        query = (
            sa.select(*_WHOLE_TRIAL, *description)
            .select_from(_JOINED.join(best, TRIALS.c.id == best.c.id))
            .where(best.c.rank == 1)
        )
        with self._sound_rows():
            pairs = [(workload_from_row(row), trial_from_row(row)) for row in self._rows(query)]
        return sorted(pairs, key=lambda pair: pair[0].key)

    def contexts(self) -> list[ContextSummary]:
        count = sa.func.count
        query = (
            sa.select(
                CONTEXTS.c.name.label("context"),
                count(TRIALS.c.workload_id.distinct()).label("n_workloads"),
                count().label("n_trials"),
                (count() - count(TRIALS.c.latency_s)).label("n_failures"),
                sa.func.min(TRIALS.c.created).label("first"),
                sa.func.max(TRIALS.c.created).label("last"),
            )
            .select_from(TRIALS.join(CONTEXTS))
            .group_by(CONTEXTS.c.name)
        )
        summaries = [ContextSummary(**row._mapping) for row in self._rows(query)]
        return sorted(summaries, key=lambda s: s.context)

    def mark_tuned(self, context: str, workload: str, tuning: Tuning) -> None:
        with self.database.writing() as connection:
            self._writer(connection).add_tuning(context, workload, replace(tuning, created=0.0))

    def tuned(self, context: str, workload: str, tuning_key: str) -> Tuning | None:
        query = (
            sa.select(TUNINGS)
            .select_from(TUNINGS.join(CONTEXTS).join(WORKLOADS))
            .where(
                CONTEXTS.c.name == context,
                WORKLOADS.c.digest == key_digest(workload),
                TUNINGS.c.tuning_key == tuning_key,
            )
        )
        with self._sound_rows():
            rows = self._rows(query)
            digests = [parse_list(row.trace_digests, str) for row in rows]
        if not rows:
            return None
        return Tuning(
            key=tuning_key,
            trace_digests=tuple(digests[0]),
            seconds=rows[0].seconds,
            created=rows[0].created,
        )

    def put_accuracy(self, key: str, accuracy: Accuracy) -> None:
        row = {"key": key, **asdict(accuracy), "created": time.time()}
        with self.database.writing() as connection:
            connection.execute(self.database.insert(ACCURACIES).on_conflict_do_nothing(), row)

    def accuracy(self, key: str) -> tuple[Accuracy, float] | None:
        rows = self._rows(sa.select(ACCURACIES).where(ACCURACIES.c.key == key))
        if not rows:
            return None
        values = dict(rows[0]._mapping)
        created = values.pop("created")
        del values["key"]
        return Accuracy(**values), created

    def close(self) -> None:
        self.database.close()

    @contextlib.contextmanager
    def _sound_rows(self) -> Iterator[None]:
        """Name the cost cache where a row holds what this version does not write."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"cost cache {self.database.name}: a row is damaged ({printable(str(error))}). Run "
                f"`cprune-rl cache verify --storage {self.database.name}`, or move the file away."
            ) from error

    def _rows(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self.database.reading() as connection:
            return connection.execute(query).all()

    def _writer(self, connection: sa.Connection) -> RowWriter:
        return RowWriter(self.database, connection, self._provenance)
