"""Evaluates policies beside greedy searches on replays of recorded problems."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.core.back_off import kept_plan
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.agents.schemes.search import MappingSearch
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.problems.registry import split_floor
from cprune_rl.envs.problems.replay import ReplaySettings, open_replay
from cprune_rl.reporting.tables import Column, Table

__all__ = [
    "MethodMeans",
    "ReplayResult",
    "evaluate_searchers",
    "means_by_method",
    "means_table",
    "n_evaluations",
    "searchers_for",
]

_FLOORS = (-0.01, -0.02)  # of problems whose name has none


@dataclass(frozen=True, kw_only=True)
class ReplayResult:
    """What one search came to on one replay; a row of `results.json`.

    Attributes:
        floor: relative to the dense network's accuracy.
        seed: of the true losses.
        speedup: by the recording's estimate.
        tasks: that a device would have been asked for, those before the search included where the
            method uses them.
    """

    problem: str
    floor: float
    seed: int
    method: str
    speedup: float
    accuracy_evaluations: int
    tasks: int
    full_finetunes: int


@dataclass(frozen=True, kw_only=True)
class MethodMeans:
    """Means of a method over problems, floors and seeds; the geometric mean of the speed-ups."""

    method: str
    speedup: float
    accuracy_evaluations: float
    tasks: float
    full_finetunes: float
    n_problems: int


def searchers_for(policy: RowPolicy, with_schemes: bool) -> tuple[Searcher, ...]:
    """Make the agent with a policy and the policy's roll-out, beside methods that need no policy.

    Roll-out and proxy greedy end after eight rejections; `benchmarks/transfer.py` has no such limit
    for proxy greedy.
    """
    if with_schemes:
        return (
            MappingSearch(policy),
            PolicyRollOut(policy, action_set=SchemeActions()),
            ProxyGreedy(action_set=SchemeActions()),
            MappingRule(),
        )
    return PruningAgent(policy), PolicyRollOut(policy), ProxyGreedy(), CPrune()


def n_evaluations(names: Sequence[str], n_seeds: int, n_searchers: int) -> int:
    """Count the searches of `evaluate_searchers`."""
    return n_seeds * n_searchers * sum(len(_floors(name)) for name in names)


def evaluate_searchers(
    searchers: Sequence[Searcher],
    names: Sequence[str],
    seeds: Sequence[int],
    *,
    with_schemes: bool = False,
    on_search: Callable[[int], None] | None = None,
) -> list[ReplayResult]:
    """Search replays of recorded problems.

    Args:
        names: of the problems. One that ends in no floor is searched at two.
        seeds: of the true losses.
        with_schemes: whether the searchers prune layers by schemes, whose latencies are measured
            before the search then.
        on_search: called with the number of searches done after each.
    """
    results: list[ReplayResult] = []
    for name, seed in itertools.product(names, seeds):
        for floor, searcher in itertools.product(_floors(name), searchers):
            settings = ReplaySettings(
                seed=seed,
                warm_start=not with_schemes and not isinstance(searcher, CPrune),
                with_schemes=with_schemes,
            )
            replay = open_replay(name, floor, settings)
            search = searcher.search(replay.problem, Budget())
            kept, n_finetuned = kept_plan(search, replay.passes)
            result = ReplayResult(
                problem=name,
                floor=round(replay.problem.floor - replay.problem.dense_accuracy, 4),
                seed=seed,
                method=searcher.name,
                speedup=round(search.accepted[0].latency_s / kept.latency_s, 4),
                accuracy_evaluations=int(search.cost["accuracy_evaluations"]),
                tasks=int(search.cost["cached_trials"]) + replay.n_tasks,
                full_finetunes=n_finetuned,
            )
            results.append(result)
            if on_search is not None:
                on_search(len(results))
    return results


def _floors(name: str) -> tuple[float | None, ...]:
    """Floors to search a problem at; None for that of its name."""
    return _FLOORS if split_floor(name)[1] is None else (None,)


def means_by_method(results: Sequence[ReplayResult]) -> list[MethodMeans]:
    """Summarize the results of each method."""
    summaries = []
    for method in dict.fromkeys(result.method for result in results):
        own = [result for result in results if result.method == method]
        means = MethodMeans(
            method=method,
            speedup=round(float(np.exp(np.mean([np.log(r.speedup) for r in own]))), 4),
            accuracy_evaluations=_mean([r.accuracy_evaluations for r in own]),
            tasks=_mean([r.tasks for r in own]),
            full_finetunes=_mean([r.full_finetunes for r in own]),
            n_problems=len(own),
        )
        summaries.append(means)
    return summaries


def _mean(values: Sequence[int]) -> float:
    return round(float(np.mean(values)), 1)


def means_table(results: Sequence[ReplayResult], is_held_out: bool) -> Table:
    """Compare the methods.

    Args:
        is_held_out: whether the policy was not trained on these problems.
    """
    which = "that it was trained on: --held-out keeps some apart"
    if is_held_out:
        which = "that it was not trained on"
    return Table(
        name="policy",
        caption=f"On problems {which}",
        columns=[
            Column(title="method", value=lambda m: m.method),
            Column(title="speed-up", value=lambda m: m.speedup, digits=2),
            Column(title="accuracy evaluations", value=lambda m: m.accuracy_evaluations),
            Column(title="tasks measured", value=lambda m: m.tasks),
            Column(title="full fine-tunes", value=lambda m: m.full_finetunes, digits=1),
        ],
        items=means_by_method(results),
    )
