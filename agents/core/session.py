"""One search of a problem: what it tries, what it accepts, and what both cost."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import Accuracy, Spending
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep, log_gain
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError

__all__ = ["SearchSession", "SessionSearcher"]


class SearchSession:
    """Tries plans of a problem within a budget, and writes them down.

    Costs are read off the problem's own sources, so no method can measure without paying.

    Args:
        problem: what to solve.
        budget: what may be spent.
        on_step: called with every candidate.

    Attributes:
        history: every candidate.
        accepted: plans that held the floor in the loop; the dense one first, once `start` was
            called.
    """

    def __init__(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> None:
        self.problem = problem
        self.budget = budget
        self.history: list[SearchStep] = []
        self.accepted: list[AcceptedPlan] = []
        self._on_step = on_step
        self._tried: dict[Plan, SearchStep] = {}
        self._before = self._totals()
        self._started_s = time.perf_counter()

    def start(self) -> None:
        """Measure the dense plan and accept it; call it before anything else."""
        dense = self.problem.network.dense
        accuracy = self.problem.dense_accuracy
        latency_s = self.problem.measured_s(dense)
        self.accepted.append(AcceptedPlan(dense, latency_s, accuracy))
        self._tried[dense] = SearchStep(
            plan=dense, what="dense", latency_s=latency_s, accuracy=accuracy, accepted=True
        )

    @property
    def dense_s(self) -> float:
        """Latency of the dense network."""
        return self.accepted[0].latency_s

    @property
    def best(self) -> AcceptedPlan:
        """The fastest accepted plan."""
        return min(self.accepted, key=lambda a: a.latency_s)

    @cached_property
    def widths(self) -> tuple[tuple[int, ...], ...]:
        """Legal widths of each group by the dense network's programs, ascending, dense last."""
        network = self.problem.network
        costs = self.problem.latency.measure(network.dense)
        return SubgraphTable.from_costs(network, network.dense, costs).legal_widths

    def try_plan(
        self,
        plan: Plan,
        what: str,
        *,
        why: str = "",
        only_if_faster_than: float = math.inf,
        least_accuracy: float = 0.0,
    ) -> SearchStep:
        """Measure a plan and, if it is fast enough, ask for its accuracy.

        Args:
            plan: the candidate.
            what: the part of the search that tries it.
            why: what speaks for it.
            only_if_faster_than: seconds. A slower plan, or one that cannot be measured, is not
                evaluated.
            least_accuracy: that it must have to be accepted, beside the floor.

        Raises:
            DeviceError: the device is gone.
        """
        step = self._measured(plan, what, why, before_s=self.best.latency_s)
        if step.latency_s < only_if_faster_than:
            answer = self.problem.oracle.accuracy(plan)
            step = replace(
                step,
                accuracy=answer.value,
                accepted=answer.value >= least_accuracy and self.problem.holds(answer.value),
                standard_error=answer.standard_error,
            )
        self._tried[plan] = step
        self.record(step)
        return step

    def try_once(
        self, plan: Plan, what: str, *, why: str = "", only_if_faster_than: float = math.inf
    ) -> SearchStep:
        """Try a plan as `try_plan` does, unless it was tried before: then give the step of then."""
        tried = self._tried.get(plan)
        if tried is not None and (
            tried.accuracy is not None or tried.latency_s >= only_if_faster_than
        ):
            return tried
        return self.try_plan(plan, what, why=why, only_if_faster_than=only_if_faster_than)

    def look(self, plan: Plan, what: str, *, n_looks: int, why: str = "") -> SearchStep:
        """Measure a plan, have it fine-tuned in full, and ask the final gate.

        Args:
            plan: the candidate; one that cannot be measured is not fine-tuned.
            what: the part of the search that asks.
            n_looks: how often at most the search asks.
            why: what speaks for it.

        Raises:
            ValueError: the problem has no full fine-tunes.
            DeviceError: the device is gone.
        """
        finetunes = self.problem.full_finetunes
        if finetunes is None:
            raise ValueError(f"{self.problem.name} lets no search ask the final gate")
        step = self._measured(plan, what, why, before_s=self.dense_s)
        if math.isfinite(step.latency_s):
            answer = finetunes.look(plan, n_looks)
            step = replace(
                step,
                accuracy=answer.accuracy.value,
                accepted=answer.holds,
                standard_error=answer.accuracy.standard_error,
                n_looks=n_looks,
            )
        self.record(step)
        return step

    def evaluate(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Ask for the accuracies of plans together: of the first ones, as the budget allows."""
        return self.problem.oracle.accuracies(plans[: self.left.accuracy_evaluations])

    def record_unmeasured(self, plan: Plan, what: str, accuracy: Accuracy) -> None:
        """Write down a plan that was evaluated and not measured, so is no answer."""
        self.record(
            SearchStep(
                plan=plan,
                what=what,
                latency_s=self.problem.predicted_s(plan),
                accuracy=accuracy.value,
                standard_error=accuracy.standard_error,
            )
        )

    def record(self, step: SearchStep) -> None:
        """Write down a candidate, and how much of its estimate is predicted.

        Call it right after the estimate was made.
        """
        step = replace(step, predicted_share=self._predicted_share(step))
        self.history.append(step)
        if step.accepted and step.accuracy is not None:
            self.accepted.append(AcceptedPlan(step.plan, step.latency_s, step.accuracy))
        if self._on_step is not None:
            self._on_step(step)

    def affords(self, name: str, amount: float) -> bool:
        """Whether the budget pays for more of a cost.

        Args:
            name: of a limit of `Budget`.
            amount: how much more; nothing is always paid for.
        """
        limit = getattr(self.budget, name)
        return limit is None or amount <= 0 or bool(self.cost()[name] + amount <= limit)

    def check_affords(self, name: str, amount: float) -> None:
        """Refuse what the budget does not pay for.

        Raises:
            BudgetSpentError: it does not.
        """
        if not self.affords(name, amount):
            limit = getattr(self.budget, name)
            what = name.replace("_", " ")
            raise BudgetSpentError(
                f"{self.cost()[name]:.0f} of {limit} {what} are spent, "
                f"and {amount:.0f} more were asked for"
            )

    def charge(self, fresh_trials: int) -> None:
        """Count trials that a method would make and that its source did not.

        Raises:
            BudgetSpentError: the budget does not pay for them.
        """
        self.check_affords("fresh_trials", fresh_trials)
        self.problem.latency.spending.fresh_trials += fresh_trials

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        left = self.left
        return 0 in (left.fresh_trials, left.accuracy_evaluations, left.minutes)

    @property
    def left(self) -> Budget:
        """What may still be spent."""
        return self.budget.less(self.cost())

    def cost(self) -> dict[str, float]:
        """Say what was spent so far, by the names of `SearchResult.cost`."""
        spent = {name: value - self._before[name] for name, value in self._totals().items()}
        return spent | {"wall_s": time.perf_counter() - self._started_s}

    def result(self, method: str) -> SearchResult:
        """Say what the search found."""
        return SearchResult(
            method=method,
            accepted=tuple(self.accepted),
            history=tuple(self.history),
            cost=self.cost(),
        )

    def _measured(self, plan: Plan, what: str, why: str, before_s: float) -> SearchStep:
        """Predict and measure a plan; its gains are over a latency of before, in seconds."""
        expected_s = self.problem.predicted_s(plan)
        latency_s = self.problem.measured_s(plan)
        return SearchStep(
            plan=plan,
            what=what,
            latency_s=latency_s,
            expected_gain=log_gain(before_s, expected_s),
            gain=log_gain(before_s, latency_s),
            why=why,
        )

    def _predicted_share(self, step: SearchStep) -> float:
        if not math.isfinite(step.latency_s):
            return 0.0
        costs = self.problem.latency.predict(self.problem.network.workloads(step.plan))
        predicted_s = sum(c.latency_s for c in costs if not c.is_measured)
        return predicted_s / sum(c.latency_s for c in costs) if predicted_s else 0.0

    def _totals(self) -> dict[str, float]:
        latency = self.problem.latency.spending
        oracle = self.problem.oracle.spending
        finetunes = self.problem.full_finetunes
        full = Spending() if finetunes is None else finetunes.spending
        return {
            "fresh_trials": latency.fresh_trials,
            "cached_trials": latency.cached_trials,
            "accuracy_evaluations": oracle.accuracy_evaluations,
            "full_finetunes": full.full_finetunes,
            "measure_s": latency.measure_s,
            "train_s": oracle.train_s + full.train_s,
        }


class SessionSearcher(ABC):
    """A searcher that works through one session; a subclass says how."""

    name: str  # for tables and files

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Search a problem within a budget (the contract is `searcher.Searcher`)."""
        session = SearchSession(problem, budget, on_step)
        session.start()
        self.run(session)
        return session.result(self.name)

    @abstractmethod
    def run(self, session: SearchSession) -> None:
        """Try plans until the method is done or the budget is spent."""
