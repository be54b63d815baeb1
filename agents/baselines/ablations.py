"""A search by overridden latencies, which measures in the end what it came to.

`RB-CPrune` of the paper is such a search: CPrune by predicted latencies. So are the controls that
show what the compiler's information is worth: the same agent by multiply-accumulates, which know
nothing of a device, and by latencies that belong to other tasks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Searcher
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import LatencySource, TaskCost, least_trials_needed
from cprune_rl.core.search_result import AcceptedPlan, SearchStep
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import BudgetSpentError
from cprune_rl.latency.sources import OverriddenLatency

__all__ = ["LatencyAblation", "agent_by_macs", "agent_by_shuffled_tasks", "cprune_by_prediction"]

LatencyOverride = Callable[[Problem], LatencySource]
_SHARES = (1.0, 0.85, 0.7, 0.5)  # of the slack


def cprune_by_prediction() -> LatencyAblation:
    """RB-CPrune: CPrune by predicted latencies."""
    return LatencyAblation("rb-cprune", CPrune(), _predicted)


def agent_by_macs(policy: RowPolicy) -> LatencyAblation:
    """The agent by multiply-accumulates."""
    return LatencyAblation("agent-macs", PruningAgent(policy), _macs)


def agent_by_shuffled_tasks(policy: RowPolicy, seed: int = 0) -> LatencyAblation:
    """The agent by latencies that are shuffled between kinds of tasks."""

    def shuffle(problem: Problem) -> LatencySource:
        return _shuffled(problem, seed)

    return LatencyAblation("agent-shuffled", PruningAgent(policy), shuffle)


class LatencyAblation(SessionSearcher):
    """Searches by overridden latencies, then measures the plans that a run would try.

    Args:
        name: for tables and file names.
        searcher: that reads the override.
        override: of a problem's latencies.
    """

    def __init__(self, name: str, searcher: Searcher, override: LatencyOverride) -> None:
        self.name = name
        self._searcher = searcher
        self._override = override

    def run(self, session: SearchSession) -> None:
        """Search, then measure the fastest plan, and the fastest that leave some of the slack.

        Where the final gate was asked, those that passed are measured.
        """
        problem = session.problem
        accepted: list[AcceptedPlan] = []
        looks: list[SearchStep] = []

        def note(step: SearchStep) -> None:
            if step.n_looks:
                looks.append(step)
            elif step.accepted and step.accuracy is not None:
                accepted.append(AcceptedPlan(step.plan, step.latency_s, step.accuracy))

        overridden = replace(problem, latency=self._override(problem))
        # What was accepted by then is measured, as far as the budget goes.
        with contextlib.suppress(BudgetSpentError):
            self._searcher.search(overridden, session.budget, note)
        if looks:
            self._measure_looks(session, looks)
            return
        for candidate in _fastest_by_share(accepted, problem):
            plan = candidate.plan
            price = least_trials_needed(problem.latency, problem.network, plan)
            if not session.affords("fresh_trials", price):
                break
            latency_s = _measured_s(problem, plan)
            session.record(
                SearchStep(
                    plan=plan,
                    what="measured in the end",
                    latency_s=latency_s,
                    accuracy=candidate.accuracy,
                    accepted=latency_s < session.dense_s,
                )
            )

    def _measure_looks(self, session: SearchSession, looks: Sequence[SearchStep]) -> None:
        """Record what the gate said, with the latencies of those that passed."""
        problem = session.problem
        for step in looks:
            latency_s = math.inf
            price = least_trials_needed(problem.latency, problem.network, step.plan)
            if step.accepted and session.affords("fresh_trials", price):
                latency_s = _measured_s(problem, step.plan)
            is_faster = step.accepted and latency_s < session.dense_s
            session.record(replace(step, latency_s=latency_s, accepted=is_faster))


def _fastest_by_share(accepted: Sequence[AcceptedPlan], problem: Problem) -> list[AcceptedPlan]:
    """The fastest plan by the override within each share of the slack, each once."""
    fastest: dict[AcceptedPlan, None] = {}
    for share in _SHARES:
        allowed = share * problem.slack
        plans = [a for a in accepted if problem.dense_accuracy - a.accuracy <= allowed]
        if plans:
            fastest[min(plans, key=lambda a: a.latency_s)] = None
    return list(fastest)


def _measured_s(problem: Problem, plan: Plan) -> float:
    """Sum exactly: among plans of as many operations, the last bit decides."""
    return math.fsum(c.latency_s for c in problem.latency.measure(plan))


def _predicted(problem: Problem) -> LatencySource:
    return OverriddenLatency(problem.network, problem.latency)


def _macs(problem: Problem) -> LatencySource:
    """Multiply-accumulates, scaled to the dense network's latency, stand for measurements.

    A task without any takes nothing. The steps that tilings allow are known.
    """
    network = problem.network
    dense_s = _measured_s(problem, network.dense)
    seconds_per_mac = dense_s / max(network.macs(network.dense), 1)

    def override(workload: Workload, cost: TaskCost) -> TaskCost:
        return replace(cost, latency_s=max(workload.macs * seconds_per_mac, 1e-12))

    return OverriddenLatency(network, problem.latency, override)


def _shuffled(problem: Problem, seed: int) -> LatencySource:
    """Each kind of task is as slow as another kind, drawn by a seed, is in the dense network.

    How latency falls with channels stays. Measurements cost what they cost.
    """
    network = problem.network
    workloads = network.workloads(network.dense)
    costs = problem.latency.measure(network.dense)
    seconds: dict[tuple[str, object], float] = {}
    for workload, cost in zip(workloads, costs, strict=True):
        seconds.setdefault((workload.family, workload.operator), cost.latency_s)
    before = np.array(list(seconds.values()))
    after = np.random.default_rng(seed).permutation(before)
    factors = dict(zip(seconds, after / before, strict=True))

    def override(workload: Workload, cost: TaskCost) -> TaskCost:
        factor = factors.get((workload.family, workload.operator), 1.0)
        return replace(cost, latency_s=cost.latency_s * factor)

    return OverriddenLatency(network, problem.latency, override, is_measuring=True)
