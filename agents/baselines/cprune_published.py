"""CPrune as its authors coded it (Kim et al., ECCV 2022;

their `c_pruner.py`), its cost counted by their protocol.

Tasks are walked in the order of their time, the slowest first. The layers of each are narrowed by
its program's step, added to what they
were narrowed by before, accepted or not; past a cap they are left alone. A candidate that is not
faster than `beta` times the
current latency leaves the walk at the next task, and the task one step further the next time; one
that loses more than
`alpha` allows is banned. An accepted candidate starts the walk anew. As coded: a step is the
largest that a producer of the group asks
for, which breaks the tilings of the others (`greedy` takes the least common multiple), and every
task of every candidate is
tuned anew, by 70 trials each. Here the source tunes a task once, and better; the trials that the
protocol would make are charged.

The code ends in a KeyError where a walk accepts nothing; here it ends with what it has. It goes on
while the last accepted plan keeps
the floor by a margin of `alpha`; a plan below the floor, which it would export, is not an answer
here.
"""

from __future__ import annotations

import math

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable, TaskRow, channel_granularity
from cprune_rl.envs.problem import Problem

__all__ = ["PublishedCPrune"]

_TRIALS_A_TASK = 70  # at least 10, and a round of 60


class PublishedCPrune:
    """See the module (and `searcher.Searcher`).

    Args:
        alpha: share of the current accuracy that a step must keep, in (0, 1].
        beta: share of the current latency that a step must get below, in (0, 1].
        cap: share of a group's channels that may go.
    """

    name = "cprune-published"

    def __init__(self, alpha: float = 0.995, beta: float = 0.99, cap: float = 0.8) -> None:
        self._alpha, self._beta, self._cap = alpha, beta, cap

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Walks again and again until a walk accepts nothing (see `searcher.Searcher`)."""
        session = SearchSession(problem, budget, on_step)
        dense = problem.network.dense
        table = SubgraphTable.from_costs(problem.network, dense, problem.latency.measure(dense))
        session.start(table.latency_s)
        walk = _Walk(problem, session, self._alpha, self._beta, self._cap)
        accuracy = problem.dense_accuracy
        while not session.is_spent and not walk.is_over and self._alpha * accuracy >= problem.floor:
            step = walk.accepted(table, accuracy)
            if step is None or step.accuracy is None:
                break
            table, accuracy = (
                SubgraphTable.from_costs(
                    problem.network, step.plan, problem.latency.measure(step.plan)
                ),
                step.accuracy,
            )
        return session.result(self.name)


class _Walk:
    """How far each layer was narrowed, accepted or not, and what may follow.

    Attributes:
        is_over: whether a candidate was good enough for `alpha` and not for the floor: there the
            code ends.
    """

    def __init__(
        self, problem: Problem, session: SearchSession, alpha: float, beta: float, cap: float
    ) -> None:
        self._problem, self._session, self._alpha, self._beta, self._cap = (
            problem,
            session,
            alpha,
            beta,
            cap,
        )
        self._shares = [0.0] * len(problem.network.subgraphs)
        self.is_over = False

    def accepted(self, table: SubgraphTable, accuracy: float) -> SearchStep | None:
        """The first candidate that is accepted; None where none is."""
        channels, steps = self._problem.network.dense.widths, _published_steps(table)
        for row in sorted((r for r in table.rows if r.groups), key=lambda r: -r.total_s):
            if self._session.is_spent or self.is_over:
                return None
            for at in row.subgraphs:
                groups = self._problem.network.written_groups[at]
                self._shares[at] += max((steps[g] / channels[g] for g in groups), default=0.0)
            if max(self._shares[at] for at in row.subgraphs) > self._cap:
                continue
            step = self._try(table, row, accuracy)
            if step.accepted:
                return step
            if step.accuracy is not None:
                for at in row.subgraphs:
                    self._shares[at] = 1.0  # past the cap for good
        return None

    def _try(self, table: SubgraphTable, row: TaskRow, accuracy: float) -> SearchStep:
        """Tunes a candidate, and asks for its accuracy if it is fast enough."""
        problem, session = self._problem, self._session
        plan = self._narrowed(table, row)
        before = problem.latency.spending.fresh_trials
        latency = math.fsum(c.latency_s for c in problem.latency.measure(plan))
        made = problem.latency.spending.fresh_trials - before
        session.charge(
            max(_TRIALS_A_TASK * len({w.key for w in problem.network.workloads(plan)}) - made, 0)
        )
        what = problem.network.subgraphs[row.subgraphs[0]].name
        if not math.isfinite(latency) or latency > self._beta * table.latency_s or session.is_spent:
            step = SearchStep(plan, what, latency, None, False)
        else:
            tried = problem.oracle.accuracy(plan)
            self.is_over = self._alpha * accuracy <= tried.value < problem.floor
            step = SearchStep(
                plan,
                what,
                latency,
                tried.value,
                tried.value >= max(self._alpha * accuracy, problem.floor),
                standard_error=tried.standard_error,
            )
        session.record(step)
        return step

    def _narrowed(self, table: SubgraphTable, row: TaskRow) -> Plan:
        """What the row's layers write, less their share of it; never wider than it is."""
        network, widths = self._problem.network, list(table.plan.widths)
        for at in row.subgraphs:
            for g in network.written_groups[at]:
                group = network.groups[g]
                widths[g] = min(
                    widths[g], max(round(group.channels * (1 - self._shares[at])), group.minimum)
                )
        return Plan(tuple(widths), table.plan.schemes)


def _published_steps(table: SubgraphTable) -> list[int]:
    """Of each group, the largest number of channels that one of its producers' programs keeps
    together.
    """
    steps = [1] * len(table.plan.widths)
    for row in table.rows:
        if row.tile_factors:
            for g in row.groups:
                steps[g] = max(steps[g], channel_granularity(row.tile_factors, row.lanes))
    return steps
