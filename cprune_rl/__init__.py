"""cprune-rl: reinforcement learning for compiler-informed pruning.

Importing it registers the environments and loads neither torch nor tvm.
"""

from gymnasium.envs.registration import register

__all__ = ["__version__"]
__version__ = "0.2.0.dev0"

register(
    "cprune_rl/CPrune-v0",
    entry_point="cprune_rl.pipeline.environments:make_live_env",
    nondeterministic=True,
)
register("cprune_rl/CPruneRecorded-v0", entry_point="cprune_rl.envs.cprune_env:CPruneEnv")
register(
    "cprune_rl/SchemeMapping-v0",
    entry_point="cprune_rl.pipeline.environments:make_live_mapping_env",
    nondeterministic=True,
)
register(
    "cprune_rl/SchemeMappingRecorded-v0",
    entry_point="cprune_rl.pipeline.environments:make_recorded_mapping_env",
)
