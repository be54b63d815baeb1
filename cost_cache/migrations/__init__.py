"""Leads from each released schema to the next, as Alembic scripts, which `upgrade` runs."""
