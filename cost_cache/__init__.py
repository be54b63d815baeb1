"""The cost cache: keeps what was measured, so that nothing is measured or trained twice."""

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
