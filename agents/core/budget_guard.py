"""A budget that no search can pass, whether it heeds it or not.

A search is given the problem with a guard before each source: a look that the budget does not pay
for is not made, and the
search ends there with what it has found by then. Used where searches are compared
(`cprune_rl.comparison`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cprune_rl.agents.core.searcher import Budget, OnStep, Searcher, SearchSession
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import (
    Accuracy,
    AccuracyOracle,
    LatencySource,
    Spending,
    TaskCost,
    least_trials_needed,
)
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError

__all__ = ["search_within"]


def search_within(
    searcher: Searcher,
    problem: Problem,
    budget: Budget,
    on_step: OnStep | None = None,
    other_s: Callable[[], float] | None = None,
) -> tuple[SearchResult, bool]:
    """Lets a search have no more than its budget.

    The tuning of a real device does not say beforehand how many trials a plan takes: there the last
    plan may pass the budget,
    and its answer is kept. Where looks have a price nothing passes it.

    Args:
        searcher: told of the budget, too, so that it may end by itself.
        problem: to be searched.
        budget: what may be spent.
        on_step: told of every candidate.
        other_s: seconds that count as well, beside those by the clock: what a replay's looks
            would have taken.

    Returns:
        What it found, and whether it was the guard that ended it.
    """
    session = SearchSession(problem, budget)
    dense = problem.network.dense
    session.start(math.fsum(c.latency_s for c in problem.latency.measure(dense)))
    guard = _BudgetGuard(session, other_s or (lambda: 0.0))

    def note(step: SearchStep) -> None:
        session.record(step)
        if on_step is not None:
            on_step(step)

    guarded = replace(
        problem,
        latency=_BudgetedLatency(problem.latency, problem.network, guard),
        oracle=_BudgetedOracle(problem.oracle, guard),
    )
    try:
        found = searcher.search(guarded, budget, note)
    except BudgetSpentError:
        return session.result(searcher.name), True
    return replace(found, cost=session.cost()), False


@dataclass
class _BudgetGuard:
    """Says no."""

    session: SearchSession
    other_s: Callable[[], float]

    def check_time(self) -> None:
        """Raises where time is up."""
        minutes = self.session.budget.minutes
        if minutes is not None and self.session.cost()["wall_s"] + self.other_s() >= 60 * minutes:
            raise BudgetSpentError(f"{minutes:g} minutes are over")

    def check(self, name: str, more: float) -> None:
        """Raises where `more` of a cost would pass the budget, or time is up."""
        budget, cost = self.session.budget, self.session.cost()
        limit: int | None = getattr(budget, name)
        if limit is not None and more > 0 and cost[name] + more > limit:
            raise BudgetSpentError(
                f"{cost[name]:.0f} of {limit} {name.replace('_', ' ')} are spent, and {more:.0f} more were asked for"
            )
        self.check_time()


class _BudgetedLatency:
    """See the module (and `protocols.LatencySource`)."""

    def __init__(self, source: LatencySource, network: Network, guard: _BudgetGuard) -> None:
        self._source, self._network, self._guard = source, network, guard

    @property
    def spending(self) -> Spending:
        """Running totals."""
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """True looks, as long as there is something left."""
        self._guard.check("fresh_trials", least_trials_needed(self._source, self._network, plan))
        return self._source.measure(plan)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Cheap looks cost nothing but time."""
        self._guard.check_time()
        return self._source.predict(workloads)


class _BudgetedOracle:
    """See the module (and `protocols.AccuracyOracle`);

    which answers cost nothing, because they were given before, the guard remembers.
    """

    def __init__(self, oracle: AccuracyOracle, guard: _BudgetGuard) -> None:
        self._oracle, self._guard = oracle, guard
        self._given: dict[Plan, Accuracy] = {}

    @property
    def spending(self) -> Spending:
        """Running totals."""
        return self._oracle.spending

    def accuracy(self, plan: Plan) -> Accuracy:
        """The answer, if it can be paid for."""
        return self.accuracies([plan])[0]

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Of all plans, if all can be paid for."""
        missing = [plan for plan in dict.fromkeys(plans) if plan not in self._given]
        self._guard.check("accuracy_evaluations", len(missing))
        self._given |= zip(
            missing, self._oracle.accuracies(missing) if missing else [], strict=True
        )
        return [self._given[plan] for plan in plans]
