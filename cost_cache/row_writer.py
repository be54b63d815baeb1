"""Rows of the cost cache from values, and values from rows.

The store and the import of an archive both write with a `RowWriter`, in a transaction of theirs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cprune_rl.core.json_text import parse_list
from cprune_rl.core.protocols import Measurement
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.store import Provenance, StoredTrial, Tuning
from cprune_rl.cost_cache.tables import (
    CONTEXTS,
    PROVENANCES,
    SCHEDULES,
    TRIALS,
    TUNINGS,
    WORKLOADS,
    key_digest,
)

__all__ = ["RowWriter", "stored_latency", "trial_from_row", "workload_from_row"]

_PER_QUERY = 500  # SQLite takes at least 999 parameters


class RowWriter:
    """Writes into one open transaction.

    Rows are sorted before they are written. Two writers that meet on the same rows of a server then
    wait for each other in one order, never in a circle.

    Args:
        database: gives the dialect.
        connection: of the transaction.
        provenance: of trials that have none of their own.
    """

    def __init__(
        self, database: Database, connection: sa.Connection, provenance: Provenance
    ) -> None:
        self._database = database
        self._connection = connection
        self._provenance = provenance
        self._context_ids: dict[str, int] = {}
        self._provenance_ids: dict[Provenance, int] = {}
        self._workload_ids: dict[str, int] = {}

    def add_schedules(self, traces: Mapping[str, str]) -> None:
        """Adds schedule traces by their digest, which trials refer to."""
        self._add(SCHEDULES, [{"digest": d, "trace": trace} for d, trace in sorted(traces.items())])

    def add_trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        """Adds trials of schedules that are there; a trial that is there stays as it is."""
        now = time.time()
        context_id = self._context_id(context)
        workload_ids = self._ids_of_workloads(t.workload for t in trials)
        rows = [
            {
                "context_id": context_id,
                "workload_id": workload_ids[t.workload],
                "trace_digest": t.trace_digest,
                "provenance_id": self._provenance_id(t.provenance or self._provenance),
                "samples_s": json.dumps(t.measurement.samples_s),
                "latency_s": stored_latency(t.measurement),
                "error": None if t.measurement.error is None else _storable(t.measurement.error),
                "reference_s": t.measurement.reference_s,
                "created": t.created or now,
            }
            for t in trials
        ]
        self._add(TRIALS, sorted(rows, key=lambda r: (r["workload_id"], r["trace_digest"])))

    def describe(self, workloads: Iterable[Workload]) -> None:
        """Fills in what workloads are; a description that is there stays."""
        descriptions = {key_digest(w.key): _description(w) for w in workloads}
        if not descriptions:
            return
        insert = self._database.insert(WORKLOADS)
        names = [c.name for c in WORKLOADS.c if c.name not in ("id", "digest", "key")]
        statement = insert.on_conflict_do_update(
            index_elements=["digest"],
            set_={name: insert.excluded[name] for name in names},
            where=WORKLOADS.c.family.is_(None),
        )
        rows = [{"digest": d, **description} for d, description in sorted(descriptions.items())]
        self._connection.execute(statement, rows)

    def add_tuning(self, context: str, workload: str, tuning: Tuning) -> None:
        """Notes a tuning, unless one of its schedules has no trial."""
        context_id = self._context_id(context)
        workload_id = self._ids_of_workloads([workload])[workload]
        tried = sa.select(TRIALS.c.trace_digest).where(
            TRIALS.c.context_id == context_id, TRIALS.c.workload_id == workload_id
        )
        if not set(tuning.trace_digests) <= set(self._connection.execute(tried).scalars()):
            return
        row = {
            "context_id": context_id,
            "workload_id": workload_id,
            "tuning_key": tuning.key,
            "trace_digests": json.dumps(tuning.trace_digests),
            "seconds": tuning.seconds,
            "created": tuning.created or time.time(),
        }
        self._add(TUNINGS, [row])

    def _context_id(self, name: str) -> int:
        if name not in self._context_ids:
            self._context_ids[name] = self._id(CONTEXTS, {"name": name})
        return self._context_ids[name]

    def _provenance_id(self, provenance: Provenance) -> int:
        if provenance not in self._provenance_ids:
            self._provenance_ids[provenance] = self._id(PROVENANCES, vars(provenance))
        return self._provenance_ids[provenance]

    def _id(self, table: sa.Table, values: Mapping[str, str]) -> int:
        """The id of a row, which is added where it is not there."""
        self._add(table, [values])
        query = sa.select(table.c.id).where(*(table.c[name] == v for name, v in values.items()))
        return int(self._connection.execute(query).scalar_one())

    def _ids_of_workloads(self, keys: Iterable[str]) -> dict[str, int]:
        keys = set(keys)
        new = {key_digest(key): key for key in keys if key not in self._workload_ids}
        digests = sorted(new)
        for start in range(0, len(digests), _PER_QUERY):
            part = digests[start : start + _PER_QUERY]
            query = sa.select(WORKLOADS.c.digest, WORKLOADS.c.id).where(
                WORKLOADS.c.digest.in_(part)
            )
            rows = self._connection.execute(query).all()
            if len(rows) < len(part):
                self._add(WORKLOADS, [{"digest": d, "key": new[d]} for d in part])
                rows = self._connection.execute(query).all()
            self._workload_ids.update({new[r.digest]: r.id for r in rows})
        return {key: self._workload_ids[key] for key in keys}

    def _add(self, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            self._connection.execute(self._database.insert(table).on_conflict_do_nothing(), rows)


def stored_latency(measurement: Measurement) -> float | None:
    """What a trial is sorted by: its median, None where it failed."""
    latency_s = measurement.latency_s
    return latency_s if measurement.error is None and math.isfinite(latency_s) else None


def trial_from_row(row: sa.Row[Any]) -> StoredTrial:
    """A trial from the columns of `TRIALS` with `key`, `trace` and those of the provenance.

    Raises:
        ValueError: a value is of another kind than this version writes.
        TypeError: likewise.
    """
    return StoredTrial(
        workload=row.key,
        trace_digest=row.trace_digest,
        trace_json=row.trace,
        measurement=Measurement(
            tuple(parse_list(row.samples_s, float)), row.error, float(row.reference_s)
        ),
        provenance=Provenance(
            version=row.version, processor=row.processor, os=row.os, python=row.python
        ),
        created=row.created,
    )


def workload_from_row(row: sa.Row[Any]) -> Workload:
    """A described workload from the columns of `WORKLOADS`."""
    return Workload(
        key=row.key,
        family=row.family,
        channels_in=row.channels_in,
        channels_out=row.channels_out,
        macs=row.macs,
        operator=OperatorKind(
            name=row.operator, kernel=row.kernel, stride=row.stride, height=row.height
        ),
    )


def _description(workload: Workload) -> dict[str, Any]:
    return {
        "key": workload.key,
        "family": workload.family,
        "channels_in": workload.channels_in,
        "channels_out": workload.channels_out,
        "macs": workload.macs,
        "operator": workload.operator.name,
        "kernel": workload.operator.kernel,
        "stride": workload.operator.stride,
        "height": workload.operator.height,
    }


def _storable(text: str) -> str:
    """What a crashed schedule printed may hold bytes that no database takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
