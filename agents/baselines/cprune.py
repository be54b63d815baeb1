"""Greedy CPrune (Kim et al., ECCV 2022, algorithm 1), repaired: the rival that started it all.

As published: the slowest task first, a candidate must be faster than `beta` times the current
latency
and keep `alpha` of the current accuracy, a failed accuracy test bans the task. Repaired: the step
is the
least common multiple over a group's producers (the published maximum breaks the other tilings),
only
tasks that changed are measured, and a plan that misses the floor is not kept. No cap on its steps.
"""

from __future__ import annotations

import math

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow, width_after_steps
from cprune_rl.envs.problem import Problem

__all__ = ["CPrune"]


class CPrune:
    """See the module.

    Args:
        alpha: share of the current accuracy that a step must keep, in (0, 1].
        beta: share of the current latency that a step must get below, in (0, 1].
    """

    name = "cprune"

    def __init__(self, alpha: float = 0.995, beta: float = 0.99) -> None:
        self._alpha, self._beta = alpha, beta

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Prunes the slowest task until every task is banned (see `searcher.Searcher`)."""
        session = SearchSession(problem, budget, on_step)
        dense = problem.network.dense
        table = _build(problem, dense, problem.latency.measure(dense))
        session.start(table.latency_s)
        accuracy = problem.dense_accuracy
        banned: set[frozenset[int]] = set()
        while not session.is_spent:
            row = _slowest(table, banned)
            if row is None:
                break
            step = self._prune_task(problem, session, table, row, accuracy)
            if step is None:
                banned.add(frozenset(row.groups))
                continue
            table = _build(problem, step.plan, problem.latency.measure(step.plan))
            accuracy = step.accuracy or accuracy
        return session.result(self.name)

    def _prune_task(
        self,
        problem: Problem,
        session: SearchSession,
        table: SubgraphTable,
        row: TaskRow,
        accuracy: float,
    ) -> SearchStep | None:
        """Narrows a task until it is fast enough, doubling the step, then asks for its accuracy;

        None bans it.
        """
        count = 1
        what = problem.network.subgraphs[row.subgraphs[0]].name
        while not session.is_spent:
            plan = _narrowed(problem, table, row, count)
            if plan is None:
                return None
            costs = problem.latency.measure(plan)
            latency = sum(c.latency_s for c in costs)
            if not math.isfinite(latency) or latency > self._beta * table.latency_s:
                session.record(SearchStep(plan, f"{what} x{count}", latency, None, False))
                count *= 2
                continue
            tried = problem.oracle.accuracy(plan).value
            accepted = tried >= self._alpha * accuracy and tried >= problem.floor
            step = SearchStep(plan, f"{what} x{count}", latency, tried, accepted)
            session.record(step)
            return step if accepted else None
        return None


def _build(problem: Problem, plan: Plan, costs: list[TaskCost]) -> SubgraphTable:
    return SubgraphTable.from_costs(problem.network, plan, costs)


def _slowest(table: SubgraphTable, banned: set[frozenset[int]]) -> TaskRow | None:
    """The task that takes most time, over all its subgraphs, among those that may still be pruned."""
    rows = [r for r in table.rows if r.groups and frozenset(r.groups) not in banned]
    return max(rows, key=lambda r: r.total_s, default=None)


def _narrowed(problem: Problem, table: SubgraphTable, row: TaskRow, count: int) -> Plan | None:
    """The plan with every group of a task `count` steps narrower;

    None where a group would pass its minimum.
    """
    widths = list(table.plan.widths)
    for g in row.groups:
        widths[g] = width_after_steps(widths[g], table.steps[g], count)
        if widths[g] < problem.network.groups[g].minimum:
            return None
    return Plan(tuple(widths), table.plan.schemes)
