"""Entry points of the registered environments: a live problem is put together here, a recorded one is opened."""

from __future__ import annotations

from typing import Any

from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.layer_schemes import SchemeActions
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemSampler
from cprune_rl.envs.problem import Problem

__all__ = ["make_live_env", "make_live_mapping_env", "make_recorded_mapping_env"]


def make_live_env(
    max_rows: int = 32,
    max_steps: int = 200,
    max_rejections: int = 8,
    reward: str = "gated",
    render_mode: str | None = None,
    action_set: ActionSet | None = None,
    **options: Any,
) -> CPruneEnv:
    """Entry point of `cprune_rl/CPrune-v0`.

    Args:
        max_rows: see `CPruneEnv`.
        max_steps: see `CPruneEnv`.
        max_rejections: see `CPruneEnv`.
        reward: see `CPruneEnv`.
        render_mode: see `CPruneEnv`.
        action_set: see `CPruneEnv`.
        options: `problem=` a problem put together before, or the name of a live one; options of a
            run: `model=`, `data=`, `device=`, `floor=`, `storage=`...
    """
    problem = options.pop("problem", None)
    if isinstance(problem, str):
        from cprune_rl.pipeline.live_problems import live_options

        options = {**live_options(problem), **options}
        problem = None
    if problem is None:
        from cprune_rl.pipeline.setup import open_live

        problem = open_live(**options)
    elif options:
        raise TypeError(f"problem= is put together already; it takes no {sorted(options)[0]}=")
    return CPruneEnv(problem, max_rows, max_steps, max_rejections, reward, render_mode, action_set)


def make_live_mapping_env(**options: Any) -> CPruneEnv:
    """Entry point of `cprune_rl/SchemeMapping-v0`; arguments are those of `make_live_env`."""
    if "problem" not in options:
        options = {"schemes": "block", **options}
    return make_live_env(action_set=SchemeActions(), **options)


def make_recorded_mapping_env(
    problem: Problem | ProblemSampler | str | None = None, **options: Any
) -> CPruneEnv:
    """Entry point of `cprune_rl/SchemeMappingRecorded-v0`:

    a recording that has tasks of layers pruned by schemes.

    Args:
        problem: see `CPruneEnv`.
        options: see `CPruneEnv`.
    """
    return CPruneEnv(problem, action_set=SchemeActions(), **options)
