"""What a search method promises, and what a search costs.

Every method gets a problem and a budget and gives back the plans it accepted, in order; a plan is
accepted only where the gate of the loop held. Costs are read off the problem's own sources, so no
method
can look without paying.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError

__all__ = ["Budget", "OnStep", "SearchSession", "Searcher"]


@dataclass(frozen=True)
class Budget:
    """What a search may spend; None is no limit.

    Attributes:
        fresh_trials: programs built and timed.
        accuracy_evaluations: answers of the oracle.
        minutes: by the clock.
    """

    fresh_trials: int | None = None
    accuracy_evaluations: int | None = None
    minutes: float | None = None

    def part(self, share: float) -> Budget:
        """A share of it."""
        trials, evaluations = (
            None if limit is None else int(share * limit)
            for limit in (self.fresh_trials, self.accuracy_evaluations)
        )
        return Budget(trials, evaluations, None if self.minutes is None else share * self.minutes)


OnStep = Callable[[SearchStep], None]


class Searcher(Protocol):
    """A search method.

    `search` ends by itself or when the budget is spent, with what it has found; the dense plan is
    always
    among the accepted ones, so there is always an answer.
    """

    @property
    def name(self) -> str:
        """For tables and file names."""

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Looks for a fast plan that holds the problem's floor.

        Raises:
            DeviceError: the device is gone.
        """


@dataclass
class SearchSession:
    """Counts what a search spends on a problem, and writes down what it tried.

    Args:
        problem: whose sources are read.
        budget: what may be spent.
        on_step: told of every candidate.
    """

    problem: Problem
    budget: Budget
    on_step: OnStep | None = None
    history: list[SearchStep] = field(default_factory=list)
    accepted: list[AcceptedPlan] = field(default_factory=list)
    _started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self._before = self._totals()

    def start(self, dense_latency_s: float) -> None:
        """Accepts the dense plan."""
        self.accepted.append(
            AcceptedPlan(self.problem.network.dense, dense_latency_s, self.problem.dense_accuracy)
        )

    def record(self, step: SearchStep) -> None:
        """Writes a candidate down, and how much of its estimate is predicted:

        call it right after the estimate was made.
        """
        step = replace(step, predicted_share=self._predicted_share(step))
        self.history.append(step)
        if step.accepted and step.accuracy is not None:
            self.accepted.append(AcceptedPlan(step.plan, step.latency_s, step.accuracy))
        if self.on_step is not None:
            self.on_step(step)

    def charge(self, fresh_trials: int) -> None:
        """Counts trials that a method would make and that its source did not.

        Args:
            fresh_trials: how many.

        Raises:
            BudgetSpentError: the budget does not pay for them.
        """
        limit, spent = self.budget.fresh_trials, self.cost()["fresh_trials"]
        if limit is not None and fresh_trials > 0 and spent + fresh_trials > limit:
            raise BudgetSpentError(
                f"{spent:.0f} of {limit} fresh trials are spent, and {fresh_trials} more were asked for"
            )
        self.problem.latency.spending.fresh_trials += fresh_trials

    def _predicted_share(self, step: SearchStep) -> float:
        if not math.isfinite(step.latency_s):
            return 0.0
        costs = self.problem.latency.predict(self.problem.network.workloads(step.plan))
        predicted_s = sum(c.latency_s for c in costs if not c.is_measured)
        return predicted_s / sum(c.latency_s for c in costs) if predicted_s else 0.0

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        cost, budget = self.cost(), self.budget
        limits = (
            ("fresh_trials", budget.fresh_trials),
            ("accuracy_evaluations", budget.accuracy_evaluations),
            ("wall_s", None if budget.minutes is None else 60 * budget.minutes),
        )
        return any(limit is not None and cost[name] >= limit for name, limit in limits)

    @property
    def left(self) -> Budget:
        """What may still be spent."""
        cost, budget = self.cost(), self.budget
        trials, evaluations = (
            None if limit is None else max(0, int(limit - cost[name]))
            for name, limit in (
                ("fresh_trials", budget.fresh_trials),
                ("accuracy_evaluations", budget.accuracy_evaluations),
            )
        )
        return Budget(
            trials,
            evaluations,
            None if budget.minutes is None else max(0.0, budget.minutes - cost["wall_s"] / 60),
        )

    def cost(self) -> dict[str, float]:
        """Spent so far."""
        spent = {name: value - self._before[name] for name, value in self._totals().items()}
        return {**spent, "wall_s": time.perf_counter() - self._started}

    def result(self, method: str) -> SearchResult:
        """What the search found."""
        return SearchResult(
            method=method,
            accepted=tuple(self.accepted),
            history=tuple(self.history),
            cost=self.cost(),
        )

    def _totals(self) -> dict[str, float]:
        latency, oracle = self.problem.latency.spending, self.problem.oracle.spending
        return {
            "fresh_trials": latency.fresh_trials,
            "cached_trials": latency.cached_trials,
            "accuracy_evaluations": oracle.accuracy_evaluations,
            "measure_s": latency.measure_s,
            "train_s": oracle.train_s,
        }
