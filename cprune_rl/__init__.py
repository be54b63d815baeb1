"""cprune-rl: reinforcement learning for compiler-informed pruning.

Importing it registers the environments and loads neither torch nor tvm. `prune` loads them when it
is asked for.
"""

from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register

from cprune_rl.core.user_name import name_the_user

if TYPE_CHECKING:
    from cprune_rl.api import ProgressEvent, PruneResult, load, prune
    from cprune_rl.pruner import Pruner

__all__ = ["ProgressEvent", "PruneResult", "Pruner", "__version__", "load", "prune"]
__version__ = "0.3.0.dev0"

name_the_user()
_OF_API = ("ProgressEvent", "PruneResult", "load", "prune")
_MAX_EPISODE_STEPS = 200  # `cprune_env.MAX_EPISODE_STEPS`, which is not loaded for it

register(
    "cprune_rl/CPrune-v0",
    entry_point="cprune_rl.pipeline.environments:make_live_env",
    nondeterministic=True,
    max_episode_steps=_MAX_EPISODE_STEPS,
)
register(
    "cprune_rl/CPruneRecorded-v0",
    entry_point="cprune_rl.envs.cprune_env:CPruneEnv",
    vector_entry_point="cprune_rl.envs.vector_env:CPruneVectorEnv",
    max_episode_steps=_MAX_EPISODE_STEPS,
)
register(
    "cprune_rl/Evaluations-v0",
    entry_point="cprune_rl.envs.evaluations:EvaluationsEnv",
    max_episode_steps=_MAX_EPISODE_STEPS,
)
register(
    "cprune_rl/SchemeMapping-v0",
    entry_point="cprune_rl.pipeline.environments:make_live_mapping_env",
    nondeterministic=True,
    max_episode_steps=_MAX_EPISODE_STEPS,
)
register(
    "cprune_rl/SchemeMappingRecorded-v0",
    entry_point="cprune_rl.envs.scheme_mapping:SchemeMappingEnv",
    vector_entry_point="cprune_rl.envs.scheme_mapping:SchemeMappingVectorEnv",
    max_episode_steps=_MAX_EPISODE_STEPS,
)


def __getattr__(name: str) -> Any:
    """Load the parts that need torch when they are asked for."""
    if name in _OF_API:
        from cprune_rl import api

        return getattr(api, name)
    if name == "Pruner":
        from cprune_rl.pruner import Pruner

        return Pruner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
