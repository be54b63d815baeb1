"""The CPrune problem as Gymnasium environments. Importing `cprune_rl` registers them."""

from cprune_rl.core.floor import resolve_floor
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem

__all__ = ["CPruneEnv", "Problem", "resolve_floor"]
