"""Schema 1, which 0.1.0 wrote."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables; a database of 0.1.0, which has them, is stamped instead."""
    meta = op.create_table(
        "meta",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.bulk_insert(meta, [{"name": "schema_version", "value": "1"}])
    op.create_table(
        "programs",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("trace", sa.Text, nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("context", sa.String, nullable=False),
        sa.Column("workload", sa.String, nullable=False),
        sa.Column("program", sa.String, sa.ForeignKey("programs.digest"), nullable=False),
        sa.Column("samples_s", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("reference_s", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.UniqueConstraint("context", "workload", "program"),
    )
    op.create_table(
        "tunings",
        sa.Column("context", sa.String, primary_key=True),
        sa.Column("workload", sa.String, primary_key=True),
        sa.Column("recipe", sa.String, primary_key=True),
        sa.Column("programs", sa.Text, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
    op.create_table(
        "accuracies",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Float, nullable=False),
        sa.Column("standard_error", sa.Float, nullable=False),
        sa.Column("n_images", sa.Integer, nullable=False),
        sa.Column("cost_s", sa.Float, nullable=False),
        sa.Column("created", sa.Float, nullable=False),
    )
