"""What leads from each released schema to the next, as Alembic scripts.

Run by `upgrade.upgrade`.
"""
