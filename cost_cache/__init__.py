"""The cost cache: what was measured, kept so that no device and no training is asked twice."""

from cprune_rl.cost_cache.sql_store import SqlStore, default_url, open_store
from cprune_rl.cost_cache.store import ContextSummary, CostStore, Provenance, StoredTrial, Tuning

__all__ = [
    "ContextSummary",
    "CostStore",
    "Provenance",
    "SqlStore",
    "StoredTrial",
    "Tuning",
    "default_url",
    "open_store",
]
