"""The cost cache: keeps what was measured, so that nothing is measured or trained twice.

A trial is found again in its own context alone: a text of the target, the device and the version
of TVM, which `RpcDevice.context` (`compiler/devices/base.py`) writes.
"""

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
