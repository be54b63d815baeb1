"""CPrune as its authors coded it (Kim et al., ECCV 2022; their `c_pruner.py`), its cost counted by their protocol.

Tasks are walked in the order of their time, the slowest first. Each is narrowed by its program's step, added to what it was
narrowed by before, accepted or not; past a cap it is left alone. A candidate that is not faster than `beta` times the
current latency leaves the walk at the next task, and the task one step further the next time; one that loses more than
`alpha` allows is banned. An accepted candidate starts the walk anew. As coded: a step is the largest that a producer of the group asks
for, which breaks the tilings of the others (`greedy` takes the least common multiple), and every task of every candidate is
tuned anew, by 70 trials each. Here the source tunes a task once, and better; the trials that the protocol would make are charged.

The code ends in a KeyError where a walk accepts nothing; here it ends with what it has. It goes on while the last accepted plan keeps
the floor by a margin of `alpha`; a plan below the floor, which it would export, is not an answer here.
"""

from __future__ import annotations

import math

from cprune_rl.agents.searcher import Budget, Meter, OnStep, SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.table import Plan, SubgraphTable, TaskRow, kept_by_a_step

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

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """Walks again and again until a walk accepts nothing (see `searcher.Searcher`)."""
        meter = Meter(problem, budget, on_step)
        dense = problem.network.dense
        table = SubgraphTable.build(problem.network, dense, problem.latency.measure(dense))
        meter.start(table.latency_s)
        removed, accuracy = [0] * len(dense.widths), problem.dense_accuracy
        while not meter.is_spent and self._alpha * accuracy >= problem.floor:
            step = self._walk(problem, meter, table, removed, accuracy)
            if step is None or step.accuracy is None:
                break
            table, accuracy = SubgraphTable.build(problem.network, step.plan, problem.latency.measure(step.plan)), step.accuracy
        return meter.result(self.name)

    def _walk(self, problem: Problem, meter: Meter, table: SubgraphTable, removed: list[int], accuracy: float) -> SearchStep | None:
        """The first candidate that is accepted; None where none is. Writes down how far each group was narrowed."""
        channels = problem.network.dense.widths
        steps = _published_steps(table)
        for row in sorted((r for r in table.rows if r.groups), key=lambda r: -r.total_s):
            if meter.is_spent:
                return None
            for g in row.groups:
                removed[g] = min(removed[g] + steps[g], channels[g])
            if any(removed[g] > self._cap * channels[g] for g in row.groups):
                continue
            step = self._try(problem, meter, table, row, removed, accuracy)
            if step.accepted:
                return step
            if step.accuracy is not None:
                for g in row.groups:
                    removed[g] = channels[g]  # past the cap for good
        return None

    def _try(self, problem: Problem, meter: Meter, table: SubgraphTable, row: TaskRow, removed: list[int], accuracy: float) -> SearchStep:
        """Tunes a candidate, and asks for its accuracy if it is fast enough."""
        network = problem.network
        channels, minimum = network.dense.widths, [g.minimum for g in network.groups]
        plan = Plan(tuple(max(channels[g] - removed[g], minimum[g]) if g in row.groups else w for g, w in enumerate(table.plan.widths)), table.plan.schemes)
        before = problem.latency.spending.fresh_trials
        latency = math.fsum(c.latency_s for c in problem.latency.measure(plan))
        made = problem.latency.spending.fresh_trials - before
        meter.charge(max(_TRIALS_A_TASK * len({w.key for w in network.workloads(plan)}) - made, 0))
        what = network.subgraphs[row.subgraphs[0]].name
        if not math.isfinite(latency) or latency > self._beta * table.latency_s or meter.is_spent:
            step = SearchStep(plan, what, latency, None, False)
        else:
            tried = problem.oracle.accuracy(plan)
            step = SearchStep(plan, what, latency, tried.value, tried.value >= max(self._alpha * accuracy, problem.floor), standard_error=tried.standard_error)
        meter.record(step)
        return step


def _published_steps(table: SubgraphTable) -> list[int]:
    """Of each group, the largest number of channels that one of its producers' programs keeps together."""
    steps = [1] * len(table.plan.widths)
    for row in table.rows:
        if row.tile_factors:
            for g in row.groups:
                steps[g] = max(steps[g], kept_by_a_step(row.tile_factors, row.lanes))
    return steps
