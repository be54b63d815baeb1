"""A search that is shown other latencies than the true ones, and measures in the end what it came
to.

`RB-CPrune` of the paper is such a search: greedy CPrune by predicted latencies. So are the controls
that show what the
compiler's information is worth: the same agent by multiply-accumulates, which know nothing of a
device, and by latencies that
belong to other tasks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cprune_rl.agents.core.searcher import Budget, OnStep, Searcher, SearchSession
from cprune_rl.core.network import Network, Plan, Workload
from cprune_rl.core.protocols import LatencySource, Spending, TaskCost, least_trials_needed
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError

__all__ = ["LatencyAblation", "LatencyOverride", "by_macs", "by_prediction", "shuffled"]

LatencyOverride = Callable[[Problem], LatencySource]
_SHARES = (1.0, 0.85, 0.7, 0.5)  # of the slack


class LatencyAblation:
    """See the module (and `searcher.Searcher`).

    Args:
        name: for tables and file names.
        searcher: that is shown the override.
        override: of a problem's latencies.
    """

    def __init__(self, name: str, searcher: Searcher, override: LatencyOverride) -> None:
        self.name, self._searcher, self._override = name, searcher, override

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Searches by the override, then measures the fastest plan by it, and the fastest of those
        that leave some of the slack, for the final gate to back off to.
        """
        session = SearchSession(problem, budget, on_step)
        session.start(
            math.fsum(c.latency_s for c in problem.latency.measure(problem.network.dense))
        )
        accepted: list[AcceptedPlan] = []

        def note(step: SearchStep) -> None:
            if step.accepted and step.accuracy is not None:
                accepted.append(AcceptedPlan(step.plan, step.latency_s, step.accuracy))

        with contextlib.suppress(
            BudgetSpentError
        ):  # what it accepted by then is measured as far as the budget goes
            self._searcher.search(replace(problem, latency=self._override(problem)), budget, note)
        for plan in _finalists(accepted, problem):
            limit = budget.fresh_trials
            if (
                limit is not None
                and session.cost()["fresh_trials"]
                + least_trials_needed(problem.latency, problem.network, plan.plan)
                > limit
            ):
                break
            latency_s = math.fsum(c.latency_s for c in problem.latency.measure(plan.plan))
            is_faster = latency_s < session.accepted[0].latency_s  # whatever was predicted
            session.record(
                SearchStep(plan.plan, "measured in the end", latency_s, plan.accuracy, is_faster)
            )
        return session.result(self.name)


def _finalists(accepted: Sequence[AcceptedPlan], problem: Problem) -> list[AcceptedPlan]:
    """The fastest plan by the override within each share of the slack."""
    slack = problem.dense_accuracy - problem.floor
    within = (
        [a for a in accepted if problem.dense_accuracy - a.accuracy <= share * slack]
        for share in _SHARES
    )
    return list(dict.fromkeys(min(plans, key=lambda a: a.latency_s) for plans in within if plans))


class _Shown:
    """Latencies by a formula of the problem's own cheap looks;

    nothing is measured (see `protocols.LatencySource`).
    """

    def __init__(
        self,
        network: Network,
        show: Callable[[Sequence[Workload]], list[TaskCost]],
        spending: Spending,
    ) -> None:
        self._network, self.predict, self.spending = network, show, spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """The same as `predict`, called measured: the search is to believe it."""
        return [replace(c, is_measured=True) for c in self.predict(self._network.workloads(plan))]


def by_prediction(problem: Problem) -> LatencySource:
    """What cheap looks say, of everything."""
    return _Shown(problem.network, problem.latency.predict, problem.latency.spending)


def by_macs(problem: Problem) -> LatencySource:
    """Multiply-accumulates, scaled to the dense network's latency:

    a task without any takes nothing; the programs' steps are known.
    """
    network = problem.network
    dense_s = math.fsum(c.latency_s for c in problem.latency.measure(network.dense))
    second = dense_s / max(network.macs(network.dense), 1)

    def show(workloads: Sequence[Workload]) -> list[TaskCost]:
        return [
            replace(c, latency_s=max(w.macs * second, 1e-12))
            for w, c in zip(workloads, problem.latency.predict(workloads), strict=True)
        ]

    return _Shown(network, show, problem.latency.spending)


def shuffled(seed: int) -> LatencyOverride:
    """Each kind of task is as slow as another, drawn by a seed, is in the dense network;

    how latency falls with channels stays.
    """

    def override(problem: Problem) -> LatencySource:
        network = problem.network
        dense = {
            w.key: c.latency_s
            for w, c in zip(
                network.workloads(network.dense),
                problem.latency.measure(network.dense),
                strict=True,
            )
        }
        kinds: dict[tuple[str, object], float] = {}
        for workload in network.workloads(network.dense):
            kinds.setdefault((workload.family, workload.operator), dense[workload.key])
        seconds = np.array(list(kinds.values()))
        factors = dict(
            zip(kinds, np.random.default_rng(seed).permutation(seconds) / seconds, strict=True)
        )
        return _Shuffled(network, problem.latency, factors)

    return override


class _Shuffled:
    """True looks, that cost what they cost, and are then told wrongly (see
    `protocols.LatencySource`).
    """

    def __init__(
        self, network: Network, source: LatencySource, factors: dict[tuple[str, object], float]
    ) -> None:
        self._network, self._source, self._factors = network, source, factors

    @property
    def spending(self) -> Spending:
        """Running totals of the true source."""
        return self._source.spending

    def measure(self, plan: Plan) -> list[TaskCost]:
        """True looks."""
        return self._tell(self._network.workloads(plan), self._source.measure(plan))

    def predict(self, workloads: Sequence[Workload]) -> list[TaskCost]:
        """Cheap looks."""
        return self._tell(workloads, self._source.predict(workloads))

    def _tell(self, workloads: Sequence[Workload], costs: Sequence[TaskCost]) -> list[TaskCost]:
        return [
            replace(c, latency_s=c.latency_s * self._factors.get((w.family, w.operator), 1.0))
            for w, c in zip(workloads, costs, strict=True)
        ]
