"""What searches of other methods share:

the widths they choose among, and looks that are paid for and written down.

Called by `halp`, `mdp`, `exact`, `fastnas`, `netadapt`, `bayes` and `amc`, and by those that sample
plans (`sampling`), which differ in what
they look at and in nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Accuracy
from cprune_rl.core.search_result import SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import Problem

__all__ = ["Looks", "legal_widths"]


class Looks:
    """The looks of one search; the dense plan's is taken at once.

    Args:
        problem: what to solve.
        budget: what may be spent.
        on_step: told of every candidate.

    Attributes:
        session: counts, and writes everything down.
        widths: legal ones of each group, ascending, the dense one last.
        slack: accuracy that may be lost.
    """

    def __init__(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> None:
        self.problem, self.session = problem, SearchSession(problem, budget, on_step)
        dense = problem.network.dense
        costs = problem.latency.measure(dense)
        dense_s = sum(c.latency_s for c in costs)
        self.session.start(dense_s)
        self.widths = legal_widths(
            problem.network, SubgraphTable.from_costs(problem.network, dense, costs).steps
        )
        self.slack = problem.dense_accuracy - problem.floor
        self._taken = {dense: SearchStep(dense, "dense", dense_s, problem.dense_accuracy, True)}

    @property
    def dense_s(self) -> float:
        """Latency of the dense network."""
        return self.session.accepted[0].latency_s

    @property
    def best_s(self) -> float:
        """Latency of the fastest accepted plan."""
        return min(a.latency_s for a in self.session.accepted)

    @property
    def n_evaluations_left(self) -> int | None:
        """Accuracy evaluations that the budget still allows; None: any number."""
        limit = self.session.budget.accuracy_evaluations
        return (
            None
            if limit is None
            else max(limit - int(self.session.cost()["accuracy_evaluations"]), 0)
        )

    def predicted_s(self, plan: Plan) -> float:
        """Latency by cheap looks; infinite where nothing is known of a task."""
        return self.problem.predicted_s(plan)

    def predicted_loss(self, plan: Plan) -> float:
        """Predicted loss, in accuracy."""
        return self.problem.predicted_loss(plan)

    def take(self, plan: Plan, what: str, why: str = "", below_s: float = math.inf) -> SearchStep:
        """Measures a plan and, if it is faster than that, asks for its accuracy;

        written down, unless it was before.

        Args:
            plan: the candidate.
            what: why the search looks here.
            why: what speaks for it.
            below_s: in seconds; a plan that cannot be measured is never judged.

        Raises:
            DeviceError: the device is gone.
        """
        known = self._taken.get(plan)
        if known is not None and (known.accuracy is not None or known.latency_s >= below_s):
            return known
        before_s, predicted_s = self.best_s, self.predicted_s(plan)
        latency_s = self.problem.measured_s(plan)
        answer = self.problem.oracle.accuracy(plan) if latency_s < below_s else None
        expected, gain = _log_gain(before_s, predicted_s), _log_gain(before_s, latency_s)
        if answer is None:
            step = SearchStep(
                plan, what, latency_s, None, False, expected_gain=expected, gain=gain, why=why
            )
        else:
            step = SearchStep(
                plan,
                what,
                latency_s,
                answer.value,
                answer.value >= self.problem.floor,
                0.0,
                expected,
                gain,
                why,
                answer.standard_error,
            )
        self._taken[plan] = step
        self.session.record(step)
        return step

    def judge(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Accuracies of the first of some plans:

        of all of them together, or of as many as the budget allows.
        """
        return self.problem.oracle.accuracies(plans[: self.n_evaluations_left])

    def record_judged(self, plan: Plan, what: str, answer: Accuracy, why: str = "") -> None:
        """Writes a plan down that was judged and not measured, so is no answer:

        its estimate is of cheap looks.
        """
        self.session.record(
            SearchStep(
                plan,
                what,
                self.predicted_s(plan),
                answer.value,
                False,
                why=why,
                standard_error=answer.standard_error,
            )
        )


def legal_widths(network: Network, steps: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Widths of each group, ascending:

    the multiples of its legal step from its minimum on, and the dense one.

    Args:
        network: whose groups they are.
        steps: legal step of each group, in channels.
    """
    return tuple(
        (*range(-(-g.minimum // step) * step, g.channels, step), g.channels)
        for g, step in zip(network.groups, steps, strict=True)
    )


def _log_gain(before_s: float, after_s: float) -> float | None:
    """Log latency ratio; None where a latency is not known."""
    return (
        math.log(before_s / after_s) if math.isfinite(before_s) and math.isfinite(after_s) else None
    )
