"""The tables of the cost cache, as this version creates and reads them.

A change here needs a new `SCHEMA_VERSION`, a script in `migrations/versions` that leads there, and
a frozen file of the new schema under `tests/data`.

Names in a database are those of its schema: 0.2 called a schedule a program, and a tuning key a
recipe. Where Python has another name, it is the column's `key`; nothing else has to know.
"""

from __future__ import annotations

import hashlib

import sqlalchemy as sa

__all__ = [
    "ACCURACIES",
    "CONTEXTS",
    "META",
    "METADATA",
    "PROVENANCES",
    "SCHEDULES",
    "SCHEMA_VERSION",
    "STAMP",
    "TRIALS",
    "TUNINGS",
    "WORKLOADS",
    "key_digest",
    "revision",
]

SCHEMA_VERSION = 2

METADATA = sa.MetaData(
    naming_convention={
        "uq": "uq_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

META = sa.Table(
    "meta",
    METADATA,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("value", sa.String, nullable=False),
)
CONTEXTS = sa.Table(
    "contexts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String, nullable=False),
    sa.UniqueConstraint("name"),
)
PROVENANCES = sa.Table(
    "provenances",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("version", sa.String, nullable=False),
    sa.Column("processor", sa.String, nullable=False),
    sa.Column("os", sa.String, nullable=False),
    sa.Column("python", sa.String, nullable=False),
    sa.UniqueConstraint("version", "processor", "os", "python"),
)
# A key can be longer than an index entry of PostgreSQL may be, so its digest is indexed instead.
WORKLOADS = sa.Table(
    "workloads",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("digest", sa.String, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    # From here on NULL until the workload is described.
    sa.Column("family", sa.Text),
    sa.Column("channels_in", sa.BigInteger),
    sa.Column("channels_out", sa.BigInteger),
    sa.Column("macs", sa.BigInteger),
    sa.Column("operator", sa.String),
    sa.Column("kernel", sa.Integer),
    sa.Column("stride", sa.Integer),
    sa.Column("height", sa.Integer),
    sa.UniqueConstraint("digest"),
)
SCHEDULES = sa.Table(
    "programs",
    METADATA,
    sa.Column("digest", sa.String, primary_key=True),
    sa.Column("trace", sa.Text, nullable=False),
)
TRIALS = sa.Table(
    "trials",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("context_id", sa.Integer, sa.ForeignKey("contexts.id"), nullable=False),
    sa.Column("workload_id", sa.Integer, sa.ForeignKey("workloads.id"), nullable=False),
    sa.Column(
        "program",
        sa.String,
        sa.ForeignKey("programs.digest"),
        key="trace_digest",
        nullable=False,
    ),
    sa.Column("provenance_id", sa.Integer, sa.ForeignKey("provenances.id"), nullable=False),
    sa.Column("samples_s", sa.Text, nullable=False),
    # Median of the samples: trials are sorted by it. NULL where the trial failed.
    sa.Column("latency_s", sa.Float),
    sa.Column("error", sa.Text),
    sa.Column("reference_s", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.UniqueConstraint("context_id", "workload_id", "trace_digest"),
    sa.Index("ix_trials_fastest", "context_id", "workload_id", "latency_s"),
    sa.Index("ix_trials_program", "trace_digest"),
)
TUNINGS = sa.Table(
    "tunings",
    METADATA,
    sa.Column("context_id", sa.Integer, sa.ForeignKey("contexts.id"), primary_key=True),
    sa.Column("workload_id", sa.Integer, sa.ForeignKey("workloads.id"), primary_key=True),
    sa.Column("recipe", sa.String, key="tuning_key", primary_key=True),
    sa.Column("programs", sa.Text, key="trace_digests", nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
ACCURACIES = sa.Table(
    "accuracies",
    METADATA,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("standard_error", sa.Float, nullable=False),
    sa.Column("n_images", sa.Integer, nullable=False),
    sa.Column("cost_s", sa.Float, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
# Alembic's own table. It has metadata of its own, so that a comparison of schemas does not see it.
# A new database is stamped without loading Alembic.
STAMP = sa.Table(
    "alembic_version",
    sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def revision(schema: int) -> str:
    """Alembic's name of a schema."""
    return f"{schema:04d}"


def key_digest(key: str) -> str:
    """What a workload is found by, however long its key is."""
    return hashlib.sha256(key.encode()).hexdigest()
