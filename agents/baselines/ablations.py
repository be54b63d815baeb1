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
from cprune_rl.core.protocols import LatencySource, TaskCost, least_trials_needed
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError
from cprune_rl.latency.sources import OverriddenLatency

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


def by_prediction(problem: Problem) -> LatencySource:
    """Predictions stand for measurements."""
    return OverriddenLatency(problem.network, problem.latency)


def by_macs(problem: Problem) -> LatencySource:
    """Multiply-accumulates, scaled to the dense network's latency, stand for measurements.

    A task without any takes nothing. The steps that tilings allow are known.
    """
    network = problem.network
    dense_s = math.fsum(c.latency_s for c in problem.latency.measure(network.dense))
    s_per_mac = dense_s / max(network.macs(network.dense), 1)

    def override(workload: Workload, cost: TaskCost) -> TaskCost:
        return replace(cost, latency_s=max(workload.macs * s_per_mac, 1e-12))

    return OverriddenLatency(network, problem.latency, override)


def shuffled(seed: int) -> LatencyOverride:
    """Each kind of task is as slow as another kind, drawn by a seed, is in the dense network.

    How latency falls with channels stays. Measurements cost what they cost.
    """

    def override(problem: Problem) -> LatencySource:
        network = problem.network
        seconds: dict[tuple[str, object], float] = {}
        dense = zip(
            network.workloads(network.dense), problem.latency.measure(network.dense), strict=True
        )
        for workload, cost in dense:
            seconds.setdefault((workload.family, workload.operator), cost.latency_s)
        before = np.array(list(seconds.values()))
        after = np.random.default_rng(seed).permutation(before)
        factors = dict(zip(seconds, after / before, strict=True))

        def shuffle(workload: Workload, cost: TaskCost) -> TaskCost:
            factor = factors.get((workload.family, workload.operator), 1.0)
            return replace(cost, latency_s=cost.latency_s * factor)

        return OverriddenLatency(network, problem.latency, shuffle, is_measuring=True)

    return override
