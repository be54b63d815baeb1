"""The cost store on SQLAlchemy:

in memory, a SQLite file that many processes share, or a PostgreSQL server.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

import sqlalchemy as sa
from platformdirs import user_cache_path

from cprune_rl.core.network import Workload
from cprune_rl.core.protocols import Accuracy
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.row_writer import Writer, trial_of, workload_of
from cprune_rl.cost_cache.store import ContextSummary, CostStore, Provenance, StoredTrial, Tuning
from cprune_rl.cost_cache.tables import (
    ACCURACIES,
    CONTEXTS,
    PROGRAMS,
    PROVENANCES,
    TRIALS,
    TUNINGS,
    WORKLOADS,
    key_digest,
)

__all__ = ["SqlStore", "default_url", "open_store"]

_WHOLE_TRIAL = (
    TRIALS,
    WORKLOADS.c.key,
    PROGRAMS.c.trace,
    PROVENANCES.c.version,
    PROVENANCES.c.processor,
    PROVENANCES.c.os,
    PROVENANCES.c.python,
)
_JOINED = TRIALS.join(CONTEXTS).join(WORKLOADS).join(PROGRAMS).join(PROVENANCES)


def default_url() -> str:
    """Where costs are kept unless told otherwise:

    `CPRUNE_RL_STORAGE`, or a file in the user cache folder.
    """
    if url := os.environ.get("CPRUNE_RL_STORAGE"):
        return url
    return f"sqlite:///{user_cache_path('cprune-rl', ensure_exists=True) / 'costs.db'}"


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
    """A `CostStore` in a database (see `store.CostStore` for what each call promises).

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
                writer.programs({t.trace_digest: t.trace_json for t in trials})
                writer.trials(context, trials)

    def trials(self, context: str, workload: str) -> list[StoredTrial]:
        query = (
            sa.select(*_WHOLE_TRIAL)
            .select_from(_JOINED)
            .where(CONTEXTS.c.name == context, WORKLOADS.c.digest == key_digest(workload))
        )
        with self.database.reading() as connection:
            rows = connection.execute(
                query.order_by(TRIALS.c.latency_s.is_(None), TRIALS.c.latency_s, TRIALS.c.id)
            ).all()
        return [trial_of(r) for r in rows]

    def describe(self, workloads: Sequence[Workload]) -> None:
        if workloads:
            with self.database.writing() as connection:
                self._writer(connection).describe(workloads)

    def fastest(
        self, context: str, family: str | None = None
    ) -> list[tuple[Workload, StoredTrial]]:
        rank = (
            sa.func.row_number()
            .over(partition_by=TRIALS.c.workload_id, order_by=(TRIALS.c.latency_s, TRIALS.c.id))
            .label("rank")
        )
        ranked = (
            sa.select(TRIALS.c.id, rank)
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
        description = (c for c in WORKLOADS.c if c.name not in ("id", "key"))
        query = (
            sa.select(*_WHOLE_TRIAL, *description)
            .select_from(_JOINED.join(best, TRIALS.c.id == best.c.id))
            .where(best.c.rank == 1)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return sorted(((workload_of(r), trial_of(r)) for r in rows), key=lambda pair: pair[0].key)

    def contexts(self) -> list[ContextSummary]:
        count, created = sa.func.count, TRIALS.c.created
        counts = (
            count(TRIALS.c.workload_id.distinct()),
            count(),
            count() - count(TRIALS.c.latency_s),
            sa.func.min(created),
            sa.func.max(created),
        )
        query = (
            sa.select(CONTEXTS.c.name, *counts)
            .select_from(TRIALS.join(CONTEXTS))
            .group_by(CONTEXTS.c.name)
        )
        with self.database.reading() as connection:
            rows = connection.execute(query).all()
        return sorted((ContextSummary(*r) for r in rows), key=lambda s: s.context)

    def mark_tuned(self, context: str, workload: str, tuning_key: str, tuning: Tuning) -> None:
        with self.database.writing() as connection:
            self._writer(connection).tuning(
                context, workload, tuning_key, Tuning(tuning.trace_digests, tuning.seconds)
            )

    def tuned(self, context: str, workload: str, tuning_key: str) -> Tuning | None:
        joined = TUNINGS.join(CONTEXTS).join(WORKLOADS)
        query = (
            sa.select(TUNINGS)
            .select_from(joined)
            .where(
                CONTEXTS.c.name == context,
                WORKLOADS.c.digest == key_digest(workload),
                TUNINGS.c.recipe == tuning_key,
            )
        )
        with self.database.reading() as connection:
            row = connection.execute(query).one_or_none()
        return (
            None
            if row is None
            else Tuning(tuple(json.loads(row.programs)), row.seconds, row.created)
        )

    def put_accuracy(self, key: str, accuracy: Accuracy) -> None:
        row = {
            "key": key,
            "value": accuracy.value,
            "standard_error": accuracy.standard_error,
            "n_images": accuracy.n_images,
            "cost_s": accuracy.cost_s,
            "created": time.time(),
        }
        with self.database.writing() as connection:
            connection.execute(self.database.insert(ACCURACIES).on_conflict_do_nothing(), row)

    def accuracy(self, key: str) -> tuple[Accuracy, float] | None:
        with self.database.reading() as connection:
            row = connection.execute(
                sa.select(ACCURACIES).where(ACCURACIES.c.key == key)
            ).one_or_none()
        return (
            None
            if row is None
            else (Accuracy(row.value, row.standard_error, row.n_images, row.cost_s), row.created)
        )

    def close(self) -> None:
        self.database.close()

    def _writer(self, connection: sa.Connection) -> Writer:
        return Writer(self.database, connection, self._provenance)
