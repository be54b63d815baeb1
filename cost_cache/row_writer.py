"""Values to rows and back:

what the store and a recording's import both write, within a transaction of theirs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from cprune_rl.core.network import OperatorKind, Workload
from cprune_rl.core.protocols import Measurement
from cprune_rl.cost_cache.engine import Database
from cprune_rl.cost_cache.store import Provenance, StoredTrial, Tuning
from cprune_rl.cost_cache.tables import (
    CONTEXTS,
    PROGRAMS,
    PROVENANCES,
    TRIALS,
    TUNINGS,
    WORKLOADS,
    key_digest,
)

__all__ = ["Writer", "latency_of", "trial_of", "workload_of"]

_IN_ONE_QUERY = 500  # SQLite takes 999 parameters at the least
_DESCRIPTION = (
    "family",
    "channels_in",
    "channels_out",
    "macs",
    "operator",
    "kernel",
    "stride",
    "height",
)


class Writer:
    """Writes into one open transaction.

    Rows go in sorted: two writers of a server that meet on the same rows wait for each other in one
    order, never in a ring.

    Args:
        database: whose dialect is spoken.
        connection: of the transaction.
        provenance: of trials that have none of their own.
    """

    def __init__(
        self, database: Database, connection: sa.Connection, provenance: Provenance
    ) -> None:
        self._database, self._connection, self._provenance = database, connection, provenance
        self._contexts: dict[str, int] = {}
        self._provenances: dict[Provenance, int] = {}
        self._known: dict[str, int] = {}

    def programs(self, traces: Mapping[str, str]) -> None:
        """Adds programs by their digest; trials refer to them."""
        self._add(PROGRAMS, [{"digest": d, "trace": trace} for d, trace in sorted(traces.items())])

    def trials(self, context: str, trials: Sequence[StoredTrial]) -> None:
        """Adds trials of programs that are there; a trial that is there stays as it is."""
        now, context_id = time.time(), self._context(context)
        workloads = self._workloads(t.workload for t in trials)
        rows = [
            {
                "context_id": context_id,
                "workload_id": workloads[t.workload],
                "program": t.trace_digest,
                "provenance_id": self._provenance_id(t.provenance or self._provenance),
                "samples_s": json.dumps(t.measurement.samples_s),
                "latency_s": latency_of(t.measurement),
                "error": None if t.measurement.error is None else _storable(t.measurement.error),
                "reference_s": t.measurement.reference_s,
                "created": t.created or now,
            }
            for t in trials
        ]
        self._add(TRIALS, sorted(rows, key=lambda r: (r["workload_id"], r["program"])))

    def describe(self, workloads: Iterable[Workload]) -> None:
        """Fills in what workloads are; a description that is there stays."""
        rows = {key_digest(w.key): _described(w) for w in workloads}
        if not rows:
            return
        insert = self._database.insert(WORKLOADS)
        update = {name: insert.excluded[name] for name in _DESCRIPTION}
        statement = insert.on_conflict_do_update(
            index_elements=["digest"], set_=update, where=WORKLOADS.c.family.is_(None)
        )
        self._connection.execute(statement, [rows[d] for d in sorted(rows)])

    def tuning(self, context: str, workload: str, tuning_key: str, tuning: Tuning) -> None:
        """Notes a tuning, unless one of its programs has no trial."""
        context_id, workload_id = self._context(context), self._workloads([workload])[workload]
        there = sa.select(TRIALS.c.program).where(
            TRIALS.c.context_id == context_id, TRIALS.c.workload_id == workload_id
        )
        if not set(tuning.trace_digests) <= set(self._connection.execute(there).scalars()):
            return
        row = {
            "context_id": context_id,
            "workload_id": workload_id,
            "recipe": tuning_key,
            "programs": json.dumps(tuning.trace_digests),
            "seconds": tuning.seconds,
        }
        self._add(TUNINGS, [{**row, "created": tuning.created or time.time()}])

    def _context(self, name: str) -> int:
        if name not in self._contexts:
            self._add(CONTEXTS, [{"name": name}])
            self._contexts[name] = self._connection.execute(
                sa.select(CONTEXTS.c.id).where(CONTEXTS.c.name == name)
            ).scalar_one()
        return self._contexts[name]

    def _provenance_id(self, provenance: Provenance) -> int:
        if provenance not in self._provenances:
            values = vars(provenance)
            self._add(PROVENANCES, [values])
            query = sa.select(PROVENANCES.c.id).where(
                *(PROVENANCES.c[name] == value for name, value in values.items())
            )
            self._provenances[provenance] = self._connection.execute(query).scalar_one()
        return self._provenances[provenance]

    def _workloads(self, keys: Iterable[str]) -> dict[str, int]:
        keys = set(keys)
        wanted = {key_digest(key): key for key in keys if key not in self._known}
        digests = sorted(wanted)
        for start in range(0, len(digests), _IN_ONE_QUERY):
            part = digests[start : start + _IN_ONE_QUERY]
            query = sa.select(WORKLOADS.c.digest, WORKLOADS.c.id).where(
                WORKLOADS.c.digest.in_(part)
            )
            rows = self._connection.execute(query).all()
            if len(rows) < len(part):
                self._add(WORKLOADS, [{"digest": d, "key": wanted[d]} for d in part])
                rows = self._connection.execute(query).all()
            self._known.update({wanted[r.digest]: r.id for r in rows})
        return {key: self._known[key] for key in keys}

    def _add(self, table: sa.Table, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            self._connection.execute(self._database.insert(table).on_conflict_do_nothing(), rows)


def latency_of(measurement: Measurement) -> float | None:
    """What a trial is sorted by: its median, None where it failed."""
    latency = measurement.latency_s
    return latency if measurement.error is None and math.isfinite(latency) else None


def trial_of(row: sa.Row[Any]) -> StoredTrial:
    """A trial from columns named as those of `TRIALS`, with `key`, `trace` and the provenance's
    columns.
    """
    measurement = Measurement(tuple(json.loads(row.samples_s)), row.error, row.reference_s)
    return StoredTrial(
        row.key,
        row.program,
        row.trace,
        measurement,
        Provenance(row.version, row.processor, row.os, row.python),
        row.created,
    )


def workload_of(row: sa.Row[Any]) -> Workload:
    """A described workload from columns named as those of `WORKLOADS`."""
    return Workload(
        row.key,
        row.family,
        row.channels_in,
        row.channels_out,
        row.macs,
        OperatorKind(row.operator, row.kernel, row.stride, row.height),
    )


def _described(workload: Workload) -> dict[str, Any]:
    kind = workload.operator
    values = (
        workload.family,
        workload.channels_in,
        workload.channels_out,
        workload.macs,
        kind.name,
        kind.kernel,
        kind.stride,
        kind.height,
    )
    return {
        "digest": key_digest(workload.key),
        "key": workload.key,
        **dict(zip(_DESCRIPTION, values, strict=True)),
    }


def _storable(text: str) -> str:
    """What a crashed program said may hold bytes that no database takes."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")
