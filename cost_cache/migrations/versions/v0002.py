"""Schema 2: workloads are described; trials are sorted by median and say who measured them."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_CHUNK = 1000
_OLD = sa.MetaData()
_OLD_TRIALS = sa.Table(
    "trials_1",
    _OLD,
    *(
        sa.Column(n)
        for n in (
            "id",
            "context",
            "workload",
            "program",
            "samples_s",
            "error",
            "reference_s",
            "created",
        )
    ),
)
_OLD_TUNINGS = sa.Table(
    "tunings_1",
    _OLD,
    *(sa.Column(n) for n in ("context", "workload", "recipe", "programs", "seconds", "created")),
)


def upgrade() -> None:
    """Moves every row of schema 1 over."""
    op.rename_table("trials", "trials_1")
    op.rename_table("tunings", "tunings_1")
    contexts, workloads, provenances = _create_names()
    trials, tunings = _create_trials()
    bind = op.get_bind()
    context_ids = _number(
        bind, contexts, "name", ({"name": name} for name in _distinct(bind, "context"))
    )
    keys = (
        {"key": key, "digest": hashlib.sha256(key.encode()).hexdigest()}
        for key in _distinct(bind, "workload")
    )
    workload_ids = _number(bind, workloads, "key", keys)
    bind.execute(
        sa.insert(provenances),
        {"id": 1, "version": "0.1.0", "processor": "unknown", "os": "unknown", "python": "unknown"},
    )
    if bind.dialect.name == "postgresql":  # an id given by hand leaves the sequence where it was
        bind.execute(sa.text("SELECT setval(pg_get_serial_sequence('provenances', 'id'), 1)"))
    for rows in _old_trials(bind):
        bind.execute(
            sa.insert(trials),
            [
                {
                    **_moved(r, context_ids, workload_ids),
                    "provenance_id": 1,
                    "latency_s": _latency(r),
                }
                for r in rows
            ],
        )
    for part in bind.execute(sa.select(_OLD_TUNINGS)).mappings().partitions(_CHUNK):
        bind.execute(sa.insert(tunings), [_moved(r, context_ids, workload_ids) for r in part])
    op.drop_table("trials_1")
    op.drop_table("tunings_1")
    op.create_index("ix_trials_fastest", "trials", ["context_id", "workload_id", "latency_s"])
    op.create_index("ix_trials_program", "trials", ["program"])
    bind.execute(sa.text("UPDATE meta SET value = '2' WHERE name = 'schema_version'"))


def _create_names() -> tuple[sa.Table, sa.Table, sa.Table]:
    contexts = op.create_table(
        "contexts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.UniqueConstraint("name", name="uq_contexts"),
    )
    workloads = op.create_table(
        "workloads",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("family", sa.Text),
        sa.Column("channels_in", sa.BigInteger),
        sa.Column("channels_out", sa.BigInteger),
        sa.Column("macs", sa.BigInteger),
        sa.Column("operator", sa.String),
        sa.Column("kernel", sa.Integer),
        sa.Column("stride", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.UniqueConstraint("digest", name="uq_workloads"),
    )
    provenances = op.create_table(
        "provenances",
        sa.Column("id", sa.Integer, primary_key=True),
        *(
            sa.Column(name, sa.String, nullable=False)
            for name in ("version", "processor", "os", "python")
        ),
        sa.UniqueConstraint("version", "processor", "os", "python", name="uq_provenances"),
    )
    return contexts, workloads, provenances


def _create_trials() -> tuple[sa.Table, sa.Table]:
    trials = op.create_table(
        "trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "context_id",
            sa.Integer,
            sa.ForeignKey("contexts.id", name="fk_trials_context_id"),
            nullable=False,
        ),
        sa.Column(
            "workload_id",
            sa.Integer,
            sa.ForeignKey("workloads.id", name="fk_trials_workload_id"),
            nullable=False,
        ),
        sa.Column(
            "program",
            sa.String,
            sa.ForeignKey("programs.digest", name="fk_trials_program"),
            nullable=False,
        ),
        sa.Column(
            "provenance_id",
            sa.Integer,
            sa.ForeignKey("provenances.id", name="fk_trials_provenance_id"),
            nullable=False,
        ),
        sa.Column("samples_s", sa.Text, nullable=False),
        sa.Column("latency_s", sa.Float),
        sa.Column("error", sa.Text),
        sa.Column("reference_s", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.UniqueConstraint("context_id", "workload_id", "program", name="uq_trials"),
    )
    tunings = op.create_table(
        "tunings",
        sa.Column(
            "context_id",
            sa.Integer,
            sa.ForeignKey("contexts.id", name="fk_tunings_context_id"),
            primary_key=True,
        ),
        sa.Column(
            "workload_id",
            sa.Integer,
            sa.ForeignKey("workloads.id", name="fk_tunings_workload_id"),
            primary_key=True,
        ),
        sa.Column("recipe", sa.String, primary_key=True),
        sa.Column("programs", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    return trials, tunings


def _distinct(bind: sa.Connection, column: str) -> list[str]:
    return list(
        bind.execute(
            sa.union(sa.select(_OLD_TRIALS.c[column]), sa.select(_OLD_TUNINGS.c[column])).order_by(
                column
            )
        ).scalars()
    )


def _number(
    bind: sa.Connection, table: sa.Table, name: str, rows: Iterable[dict[str, str]]
) -> dict[str, int]:
    if values := list(rows):
        bind.execute(sa.insert(table), values)
    return {row[0]: row[1] for row in bind.execute(sa.select(table.c[name], table.c.id))}


def _old_trials(bind: sa.Connection) -> Iterator[list[dict[str, Any]]]:
    last = 0
    while (
        rows := bind.execute(
            sa.select(_OLD_TRIALS)
            .where(_OLD_TRIALS.c.id > last)
            .order_by(_OLD_TRIALS.c.id)
            .limit(_CHUNK)
        )
        .mappings()
        .all()
    ):
        yield [dict(row) for row in rows]
        last = rows[-1]["id"]


def _moved(row: Any, context_ids: dict[str, int], workload_ids: dict[str, int]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in ("id", "context", "workload")}
    return {
        **kept,
        "context_id": context_ids[row["context"]],
        "workload_id": workload_ids[row["workload"]],
    }


def _latency(row: dict[str, Any]) -> float | None:
    samples = json.loads(row["samples_s"])
    latency = median(samples) if samples and row["error"] is None else math.inf
    return latency if math.isfinite(latency) else None
