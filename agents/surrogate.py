"""Search on a model of the problem, one true look at a time: annealing over plans, the best one verified, the model mended.

Latency is the problem's own cheap looks, loss the posterior of what was evaluated. Each round anneals from the best
verified plan, measures the plan it comes to and asks for its accuracy, and learns from the answer whether it held or not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cprune_rl.agents.posterior import LossPosterior
from cprune_rl.agents.searcher import Budget, Meter, OnStep, SearchResult, SearchStep
from cprune_rl.envs.problem import Problem
from cprune_rl.table import Plan, SubgraphTable

__all__ = ["SurrogateSearch", "SurrogateSettings"]


@dataclass(frozen=True)
class SurrogateSettings:
    """How a round is searched.

    Attributes:
        rounds: true looks at most.
        first_steps: annealing steps of a round that nothing was verified before.
        steps: of the others.
        caution: standard deviations of the loss that must fit under the slack.
        margin: share of the slack that a plan may be expected to use.
        patience: the search ends after so many rounds in a row without a faster verified plan.
        seed: of the annealing.
    """

    rounds: int = 10
    first_steps: int = 2000
    steps: int = 800
    caution: float = 0.0
    margin: float = 0.98
    patience: int = 4
    seed: int = 0


class SurrogateSearch:
    """See the module (and `searcher.Searcher`).

    Args:
        settings: of the rounds.
    """

    name = "surrogate"

    def __init__(self, settings: SurrogateSettings | None = None) -> None:
        self._settings = settings or SurrogateSettings()

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """Starts from the dense network, with what was predicted of its groups (see `searcher.Searcher`)."""
        meter = Meter(problem, budget, on_step)
        self.refine(problem, meter)
        return meter.result(self.name)

    def refine(self, problem: Problem, meter: Meter) -> None:
        """Goes on from what a meter has written down: its evaluations are learnt from, its best plan is where the search starts.

        Args:
            problem: what to solve.
            meter: counts, and writes the rounds down.
        """
        dense = problem.network.dense
        costs = problem.latency.measure(dense)
        if not meter.accepted:
            meter.start(sum(c.latency_s for c in costs))
        posterior = LossPosterior(problem.network, problem.curves)
        for step in meter.history:
            if step.accuracy is not None:
                posterior.learn(step.plan, problem.dense_accuracy - step.accuracy, step.standard_error)
        tried = {step.plan for step in meter.history} | {dense}
        annealing = _Annealing(problem, posterior, SubgraphTable.build(problem.network, dense, costs).steps, self._settings)
        idle = 0
        for number in range(self._settings.rounds):
            if meter.is_spent or idle >= self._settings.patience:
                return
            best = min(meter.accepted, key=lambda a: a.latency_s)
            plan = annealing.run(best.plan, number, tried)
            if plan is None:
                return
            tried.add(plan)
            latency = sum(c.latency_s for c in problem.latency.measure(plan))
            if not math.isfinite(latency):
                meter.record(SearchStep(plan, f"surrogate round {number + 1}", latency, None, False))
                continue
            accuracy = problem.oracle.accuracy(plan)
            posterior.learn(plan, problem.dense_accuracy - accuracy.value, accuracy.standard_error)
            meter.record(SearchStep(plan, f"surrogate round {number + 1}", latency, accuracy.value, accuracy.value >= problem.floor, standard_error=accuracy.standard_error))
            idle = 0 if accuracy.value >= problem.floor and latency < best.latency_s else idle + 1


class _Annealing:
    """Looks for the plan of least predicted latency whose predicted loss fits.

    Args:
        problem: its cheap looks are read.
        posterior: of the loss.
        steps: legal step of each group.
        settings: of the search.
    """

    def __init__(self, problem: Problem, posterior: LossPosterior, steps: tuple[int, ...], settings: SurrogateSettings) -> None:
        self._problem, self._posterior, self._settings = problem, posterior, settings
        groups = problem.network.groups
        self._steps = np.array(steps)
        minimum, self._channels = (np.array([getattr(g, name) for g in groups]) for name in ("minimum", "channels"))
        self._minimum = np.minimum(-(-minimum // self._steps) * self._steps, self._channels)  # the environment stops there too
        self._slack = problem.dense_accuracy - problem.floor

    def run(self, start: Plan, number: int, tried: set[Plan]) -> Plan | None:
        """The best plan that was not tried before; None where nothing fits that is expected to be faster than the start."""
        rng = np.random.default_rng([self._settings.seed, number])
        n = self._settings.first_steps if start == self._problem.network.dense else self._settings.steps
        heat = 0.08 if n == self._settings.first_steps else 0.02
        now = _State(np.array(start.widths), self._costs(start.widths))
        energy = self._energy(now)
        best, best_latency = None, now.latency_s
        for step in range(n):
            temperature = heat * (1 - step / n) ** 2 + 1e-5
            next_ = self._neighbour(now, rng, n_changes=2 if step % 3 == 0 else 1)
            changed = self._energy(next_)
            if changed < energy or rng.random() < math.exp(-min((changed - energy) / temperature, 50.0)):
                now, energy = next_, changed
                plan = Plan(tuple(int(w) for w in now.widths))
                if now.latency_s < best_latency and self._fits(now) and plan not in tried:
                    best, best_latency = plan, now.latency_s
        return best

    def _fits(self, state: _State) -> bool:
        return self._expected(state) <= self._settings.margin * self._slack

    def _expected(self, state: _State) -> float:
        loss = self._posterior.loss(state.widths)
        return loss + self._settings.caution * self._posterior.deviation(state.widths) if self._settings.caution else loss

    def _energy(self, state: _State) -> float:
        """Log latency, and two for each point of accuracy too much."""
        return math.log(state.latency_s) + 200 * max(self._expected(state) - self._settings.margin * self._slack, 0.0)

    def _neighbour(self, state: _State, rng: np.random.Generator, n_changes: int) -> _State:
        widths = state.widths.copy()
        groups = set()
        for change in range(n_changes):
            g = int(rng.integers(len(widths)))
            sign = 1 if rng.random() < (0.6 if change else 0.4) else -1
            moved = widths[g] + sign * int(rng.choice((1, 1, 2, 4))) * self._steps[g]
            if moved < self._channels[g]:
                moved = moved // self._steps[g] * self._steps[g]
            widths[g] = min(max(moved, self._minimum[g]), self._channels[g])
            groups.add(g)
        network = self._problem.network
        at = network.shaped_by(tuple(sorted(groups)))
        costs = state.costs.copy()
        found = self._problem.latency.predict(network.workloads_of(at, tuple(int(w) for w in widths)))
        costs[list(at)] = [c.latency_s for c in found]
        return _State(widths, costs)

    def _costs(self, widths: tuple[int, ...]) -> np.ndarray:
        return np.array([c.latency_s for c in self._problem.latency.predict(self._problem.network.workloads(Plan(widths)))])


@dataclass(frozen=True, eq=False)
class _State:
    widths: np.ndarray
    costs: np.ndarray

    @property
    def latency_s(self) -> float:
        return float(self.costs.sum())
