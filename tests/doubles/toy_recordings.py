"""Recordings of the toy problem, as a device would have timed it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.envs.actions.scheme_actions import scheme_plans
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.registry import save_recorded
from cprune_rl.testing import toy_problem

__all__ = ["save_toy", "timed_tasks", "warm_start_plans"]


def timed_tasks(
    problem: Problem, plans: Iterable[Plan], spread: float = 0.0
) -> list[tuple[Workload, TaskCost]]:
    """Measure the tasks of some plans, each once."""
    tasks: dict[str, tuple[Workload, TaskCost]] = {}
    for plan in plans:
        workloads = problem.network.workloads(plan)
        for workload, cost in zip(workloads, problem.latency.measure(plan), strict=True):
            tasks[workload.key] = (workload, replace(cost, spread=spread))
    return list(tasks.values())


def warm_start_plans(network: Network, densities: Iterable[float] = (0.25, 0.0625)) -> list[Plan]:
    """Plans that a live run measures before it prunes layers by schemes."""
    plans = [network.dense, network.uniform(0.5)]
    for density in densities:
        plans += scheme_plans(network, density)
    return plans


def save_toy(
    path: Path,
    plans: Iterable[Plan] | None = None,
    spread: float = 0.05,
    provenance: Mapping[str, Any] | None = None,
) -> Problem:
    """Record the toy problem: some plans, or the dense network and three narrower ones."""
    problem = toy_problem()
    if plans is None:
        plans = [problem.network.uniform(ratio) for ratio in (1.0, 0.75, 0.5, 0.3)]
    tasks = timed_tasks(problem, plans, spread)
    save_recorded(path, problem, tasks, provenance or {"device": "formula"})
    return problem
