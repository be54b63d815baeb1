"""The CPrune problem as Gymnasium environments. Importing `cprune_rl` registers them."""

from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem, resolve_floor

__all__ = ["CPruneEnv", "Problem", "resolve_floor"]
