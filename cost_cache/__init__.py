"""The cost cache: what was measured, kept so that no device and no training is asked twice."""

from cprune_rl.cost_cache.sql import SqlStore, default_url, open_store
from cprune_rl.cost_cache.store import CostStore, StoredTrial, Tuning

__all__ = ["CostStore", "SqlStore", "StoredTrial", "Tuning", "default_url", "open_store"]
