"""A budget that no search can pass, whether it heeds it or not.

Before each source of the problem stands a guard: it refuses a measurement or an evaluation that the
budget does not pay for. The search ends there with what it has found by then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cprune_rl.agents.core.searcher import Budget, OnStep, Searcher
from cprune_rl.agents.core.session import SearchSession
from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import (
    Accuracy,
    AccuracyOracle,
    FullAnswer,
    FullFinetunes,
    LatencySource,
    Spending,
    TaskCost,
    least_trials_needed,
)
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError

__all__ = ["search_within"]


def search_within(
    searcher: Searcher,
    problem: Problem,
    budget: Budget,
    on_step: OnStep | None = None,
    other_s: Callable[[], float] = lambda: 0.0,
) -> tuple[SearchResult, bool]:
    """Let a search have no more than its budget.

    A real device does not say beforehand how many trials a plan takes: there the last plan may pass
    the budget, and its answer is kept. Where a measurement has a price, nothing passes it.

    Args:
        searcher: told of the budget, too, so that it may end by itself.
        problem: to be searched.
        budget: what may be spent.
        on_step: called with every candidate.
        other_s: seconds that count beside those by the clock: what the measurements of a replay
            would have taken.

    Returns:
        What it found, and whether the guard ended it.
    """
    session = SearchSession(problem, budget, on_step)
    session.start()
    guard = _BudgetGuard(session, other_s)
    guarded = replace(
        problem,
        latency=_BudgetedLatency(problem.latency, problem.network, guard),
        oracle=_BudgetedOracle(problem.oracle, guard),
        full_finetunes=None
        if problem.full_finetunes is None
        else _BudgetedFinetunes(problem.full_finetunes, guard),
    )
    try:
        result = searcher.search(guarded, budget, session.record)
    except BudgetSpentError:
        return session.result(searcher.name), True
    return replace(result, cost=session.cost()), False


@dataclass(frozen=True)
class _BudgetGuard:
    """Refuses what a session cannot pay for."""

    session: SearchSession
    other_s: Callable[[], float]

    def check_time(self) -> None:
        """Raise where time is up."""
        minutes = self.session.budget.minutes
        if minutes is not None and self.session.cost()["wall_s"] + self.other_s() >= 60 * minutes:
            raise BudgetSpentError(f"{minutes:g} minutes are over")

    def check(self, name: str, amount: float) -> None:
        """Raise where more of a cost would pass the budget, or time is up."""
        self.session.check_affords(name, amount)
        self.check_time()


class _BudgetedLatency:
    """A source of latencies that measures what the budget pays for."""

    def __init__(self, source: LatencySource, network: Network, guard: _BudgetGuard) -> None:
        self._source = source
        self._network = network
        self._guard = guard

    @property
    def spending(self) -> Spending:
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        self._guard.check("fresh_trials", least_trials_needed(self._source, self._network, plan))
        return self._source.measure(plan)

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        self._guard.check_time()
        return self._source.predict(workloads)


class _BudgetedOracle:
    """An oracle that answers what the budget pays for, and repeats an answer for nothing."""

    def __init__(self, oracle: AccuracyOracle, guard: _BudgetGuard) -> None:
        self._oracle = oracle
        self._guard = guard
        self._answers: dict[Plan, Accuracy] = {}

    @property
    def spending(self) -> Spending:
        return self._oracle.spending

    def accuracy(self, plan: Plan) -> Accuracy:
        return self.accuracies([plan])[0]

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        missing = [plan for plan in dict.fromkeys(plans) if plan not in self._answers]
        self._guard.check("accuracy_evaluations", len(missing))
        if missing:
            self._answers |= zip(missing, self._oracle.accuracies(missing), strict=True)
        return [self._answers[plan] for plan in plans]


class _BudgetedFinetunes:
    """Full fine-tunes that the budget pays for."""

    def __init__(self, finetunes: FullFinetunes, guard: _BudgetGuard) -> None:
        self._finetunes = finetunes
        self._guard = guard

    @property
    def spending(self) -> Spending:
        return self._finetunes.spending

    @property
    def gate(self) -> GateModel:
        return self._finetunes.gate

    def look(self, plan: Plan, n_looks: int) -> FullAnswer:
        self._guard.check("full_finetunes", 1)
        return self._finetunes.look(plan, n_looks)
