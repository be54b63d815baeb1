"""CPrune (Kim et al., ECCV 2022, algorithm 1), repaired: the rival that started it all.

As published: the slowest task comes first; a candidate must be faster than `beta` times the current
latency and keep `alpha` of the current accuracy; a failed accuracy test bans the task. Repaired:
the step is the least common multiple over a group's producers, because the published maximum breaks
the other tilings; only tasks that changed are measured; a plan that misses the floor is not kept.
There is no cap on its steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.legal_steps import width_after_steps
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow
from cprune_rl.envs.problem import Problem

__all__ = ["CPrune"]


@dataclass(frozen=True)
class CPrune(SessionSearcher):
    """Narrows the slowest task again and again.

    Attributes:
        alpha: share of the current accuracy that a step must keep, in (0, 1].
        beta: share of the current latency that a step must get below, in (0, 1].
    """

    alpha: float = 0.995
    beta: float = 0.99

    name = "cprune"

    def run(self, session: SearchSession) -> None:
        """Prune the slowest task until every task is banned."""
        problem = session.problem
        table = _measure(problem, problem.network.dense)
        accuracy = problem.dense_accuracy
        banned: set[frozenset[int]] = set()
        while not session.is_spent:
            row = _slowest(table, banned)
            if row is None:
                break
            step = self._prune_task(session, table, row, accuracy=accuracy)
            if step is None or step.accuracy is None:
                banned.add(frozenset(row.groups))
                continue
            table = _measure(problem, step.plan)
            accuracy = step.accuracy

    def _prune_task(
        self, session: SearchSession, table: SubgraphTable, row: TaskRow, *, accuracy: float
    ) -> SearchStep | None:
        """Narrow a task, by twice as many steps each time, until it is fast enough to be evaluated.

        None bans the task.
        """
        name = session.problem.network.subgraphs[row.subgraphs[0]].name
        n_steps = 1
        while not session.is_spent:
            plan = _narrowed(table, row, n_steps)
            if plan is None:
                return None
            step = session.try_plan(
                plan,
                f"{name} x{n_steps}",
                only_if_faster_than=self.beta * table.latency_s,
                least_accuracy=self.alpha * accuracy,
            )
            if step.accuracy is not None:
                return step if step.accepted else None
            n_steps *= 2
        return None


def _measure(problem: Problem, plan: Plan) -> SubgraphTable:
    return SubgraphTable.from_costs(problem.network, plan, problem.latency.measure(plan))


def _slowest(table: SubgraphTable, banned: set[frozenset[int]]) -> TaskRow | None:
    """The task that takes most time, over all its subgraphs, among those that may be pruned."""
    rows = [r for r in table.rows if r.groups and frozenset(r.groups) not in banned]
    return max(rows, key=lambda r: r.total_s, default=None)


def _narrowed(table: SubgraphTable, row: TaskRow, n_steps: int) -> Plan | None:
    """Narrow every group of a task by so many steps; None where one would pass its minimum."""
    widths = list(table.plan.widths)
    for g in row.groups:
        widths[g] = width_after_steps(widths[g], table.steps[g], n_steps)
        if widths[g] < table.network.groups[g].minimum:
            return None
    return Plan(tuple(widths), table.plan.schemes)
