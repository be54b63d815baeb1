"""Search on a model of the problem, one verified plan at a time: annealing over plans, the best one
verified, the model corrected.

Latency is what the problem predicts, loss the posterior of what was evaluated. Each round anneals
from the best verified plan, measures the plan it comes to, asks for its accuracy, and learns from
the answer whether it held or not. Where the model sees nothing faster, a round goes by a model
drawn from the posterior: one unlucky answer does not end the search.

Each turn ends with fallback plans: the fastest plans that are expected to leave some of the slack.
An oracle's answer is noisy, and of the plans that seem to hold the fastest is the luckiest: where
the final gate refuses it, a fallback is next. A plan found by an oracle's answers leans on those
that were too good, and so would its fallbacks. A fallback therefore leaves its share by a model
that believes the oracle by half, and holds by the one that believes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.agents.planner.loss_posterior import LossPosterior
from cprune_rl.agents.planner.model_problem import model_problem
from cprune_rl.agents.planner.moves import ChannelSpace, PlanSpace
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import Problem

__all__ = ["MakeSpace", "Propose", "SurrogateSearch", "SurrogateSettings"]


Propose = Callable[[Problem], tuple[Plan, str]]
MakeSpace = Callable[[Problem, SubgraphTable], PlanSpace]


def _channels(problem: Problem, table: SubgraphTable) -> PlanSpace:
    return ChannelSpace(problem.network, table.steps)


@dataclass(frozen=True)
class SurrogateSettings:
    """How a round is searched.

    Attributes:
        turns: how often rounds and fallbacks come, so that a search that is cut short after the first
            has something to back off to.
        rounds: verified plans of a turn at most, fallbacks apart.
        first_steps: annealing steps of a round from the dense network.
        steps: of the others, and of fallbacks.
        margin: share of the slack that a plan may be expected to use.
        first_fallback_share: the same of a fallback that comes before all rounds, so that a search that is cut
            short has something to back off to.
        fallback_shares: the same of each fallback that ends a turn.
        last_fallback_shares: of further ones after the last turn, if the budget lasts: an oracle may be off
            by more than half.
        trust: share of what evaluations say of the groups' losses, against what was predicted, that
            fallbacks believe: short fine-tunes
            are off by about as much as the predictions (`benchmarks/loss_model.py`).
        patience: rounds end after so many in a row without a faster verified plan.
        seed: of the annealing.
    """

    turns: int = 4
    rounds: int = 10
    first_steps: int = 2000
    steps: int = 800
    margin: float = 0.98
    first_fallback_share: float = 0.7
    fallback_shares: tuple[float, ...] = (0.85, 0.7, 0.5)
    last_fallback_shares: tuple[float, ...] = (0.35, 0.2)
    trust: float = 0.5
    patience: int = 4
    seed: int = 0


class SurrogateSearch:
    """See the module (and `searcher.Searcher`).

    Args:
        settings: of the rounds.
        make_space: the plans to search, given the problem and the table of where it begins; widths
            of groups where not given.
    """

    name = "surrogate"

    def __init__(
        self, settings: SurrogateSettings | None = None, make_space: MakeSpace | None = None
    ) -> None:
        self._settings, self._make_space = settings or SurrogateSettings(), make_space or _channels

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Starts from the dense network, with what was predicted of its groups (see
        `searcher.Searcher`).
        """
        return self.take_turns(problem, SearchSession(problem, budget, on_step)).result(self.name)

    def take_turns(
        self, problem: Problem, session: SearchSession, propose: Propose | None = None
    ) -> SearchSession:
        """Refines again and again.

        Args:
            problem: what to solve.
            session: counts, and writes everything down.
            propose: who says what to look at first in each turn, given the problem as the model has
                it by then.
        """
        for turn in range(self._settings.turns):
            if (
                turn == 0 or not session.is_spent
            ):  # the first measures the dense plan, which is always an answer
                self.refine(problem, session, propose, turn)
        return session

    def refine(
        self,
        problem: Problem,
        session: SearchSession,
        propose: Propose | None = None,
        turn: int = 0,
    ) -> None:
        """Goes on from what a session has written down:

        its evaluations are learnt from, its best plan is where the search starts.

        Args:
            problem: what to solve.
            session: counts, and writes the rounds down.
            propose: who says what to look at first, given the problem as the model has it.
            turn: its number: each draws its own.
        """
        walk, settings = (
            _Walk(problem, session, self._settings, turn, self._make_space),
            self._settings,
        )
        idle = 0
        if propose is not None and not session.is_spent:
            walk.follow(propose)
        if turn == 0:
            walk.verify_fallbacks([settings.first_fallback_share])
        for number in range(settings.rounds):
            if session.is_spent or idle >= settings.patience:
                break
            plan = walk.faster(number)
            idle = (
                0
                if plan is not None
                and walk.verify(plan, f"round {number + 1}", walk.best.latency_s)
                else idle + 1
            )
        walk.verify_fallbacks(
            [
                *settings.fallback_shares,
                *(settings.last_fallback_shares if turn == settings.turns - 1 else ()),
            ]
        )


class _Walk:
    """The rounds of one search: what is known, and what was tried."""

    def __init__(
        self,
        problem: Problem,
        session: SearchSession,
        settings: SurrogateSettings,
        turn: int,
        make_space: MakeSpace,
    ) -> None:
        dense = problem.network.dense
        if not session.accepted:
            session.start(problem.measured_s(dense))
        costs = problem.latency.measure(problem.start_plan)
        self._problem, self._session, self._settings, self._turn = problem, session, settings, turn
        self._posterior = LossPosterior.of(problem, session.history)
        self._tried = {step.plan for step in session.history} | {dense}
        self._annealing = _Annealing(
            problem,
            make_space(
                problem, SubgraphTable.from_costs(problem.network, problem.start_plan, costs)
            ),
        )

    @property
    def best(self) -> AcceptedPlan:
        """The fastest verified plan."""
        return min(self._session.accepted, key=lambda a: a.latency_s)

    def follow(self, propose: Propose) -> None:
        """Looks at what somebody proposes who knows the problem as the model has it, if it promises
        to be faster than the best.
        """
        plan, why = propose(model_problem(self._problem, self._posterior.loss_model))
        if plan not in self._tried and self._predicted_s(plan) < self.best.latency_s:
            self.verify(plan, "roll-out in the model", self.best.latency_s, why)

    def faster(self, number: int) -> Plan | None:
        """The plan of least predicted latency that is expected to hold;

        None where neither the model nor one drawn from the posterior sees one.
        """
        best, settings = self.best, self._settings
        rng = np.random.default_rng([settings.seed, self._turn, number])
        beginning = self._problem.start_plan
        expected = self._model((settings.margin, self._posterior.factors))
        n_steps = settings.first_steps if best.plan == beginning else settings.steps
        found = self._annealing.run(expected, best.plan, best.latency_s, n_steps, self._tried, rng)
        if found is None:
            drawn = self._model((settings.margin, self._posterior.draw(rng)))
            found = self._annealing.run(
                drawn, beginning, best.latency_s, settings.first_steps, self._tried, rng
            )
        return found

    def verify_fallbacks(self, shares: Sequence[float]) -> None:
        """Verifies a fallback for each share of the slack:

        the fastest plan expected to use no more of it, the oracle believed in part, and to hold,
        the oracle believed.
        """
        dense_s, settings = self._session.accepted[0].latency_s, self._settings
        for share in shares:
            rng = np.random.default_rng([settings.seed, self._turn, 1000 + round(1000 * share)])
            model = self._model(
                (share, 1 + settings.trust * (self._posterior.factors - 1)),
                (settings.margin, self._posterior.factors),
            )
            if self._session.is_spent:
                return
            # From the fastest plan, or from the beginning where that one loses so much that no
            # short way leads back.
            starts = (
                (self.best.plan, settings.steps),
                (self._problem.start_plan, settings.first_steps),
            )
            found = (
                self._annealing.run(model, start, dense_s, n_steps, self._tried, rng)
                for start, n_steps in starts
            )
            plan = next((plan for plan in found if plan is not None), None)
            if plan is not None:
                self.verify(plan, f"fallback at {share:.0%} of the slack", dense_s)

    def verify(self, plan: Plan, what: str, below_s: float, why: str = "") -> bool:
        """Measures a plan and, if it is faster than that, asks for its accuracy;

        whether it was faster and held.
        """
        problem, session = self._problem, self._session
        self._tried.add(plan)
        best_s = self.best.latency_s
        expected = _log_gain(best_s, self._predicted_s(plan))
        latency = problem.measured_s(plan)
        gain = _log_gain(best_s, latency)
        if gain is None or latency >= below_s:
            session.record(
                SearchStep(
                    plan,
                    f"turn {self._turn + 1}, {what}",
                    latency,
                    None,
                    False,
                    expected_gain=expected,
                    gain=gain,
                    why=why,
                )
            )
            return False
        accuracy = problem.oracle.accuracy(plan)
        self._posterior.learn(
            plan, problem.dense_accuracy - accuracy.value, accuracy.standard_error
        )
        holds = accuracy.value >= problem.floor
        step = SearchStep(
            plan,
            f"turn {self._turn + 1}, {what}",
            latency,
            accuracy.value,
            holds,
            0.0,
            expected,
            gain,
            why,
            accuracy.standard_error,
        )
        session.record(step)
        return holds

    def _predicted_s(self, plan: Plan) -> float:
        return sum(
            c.latency_s
            for c in self._problem.latency.predict(self._problem.network.workloads(plan))
        )

    def _model(self, *beliefs: tuple[float, NDArray[np.float64]]) -> _LossModel:
        """What a plan must hold by: shares of the slack, each by factors of its own."""
        slack = self._problem.dense_accuracy - self._problem.floor
        return _LossModel(
            self._problem.network,
            tuple(
                (self._posterior.loss_model_with(factors), share * slack)
                for share, factors in beliefs
            ),
        )


def _log_gain(before_s: float, after_s: float) -> float | None:
    """Log latency ratio; None where a task has no latency."""
    return math.log(before_s / after_s) if math.isfinite(after_s) else None


@dataclass(frozen=True)
class _LossModel:
    """What may be believed of losses, and how much each belief allows to be lost."""

    network: Network
    limits: tuple[tuple[LossModel, float], ...]

    def excess(self, plan: Plan) -> float:
        """Expected loss beyond what is allowed, by the strictest belief;

        at most 0 where a plan fits.
        """
        return max(
            float(loss_model.unit_losses(self.network, plan).sum()) - allowed
            for loss_model, allowed in self.limits
        )


class _Annealing:
    """Looks for the plan of least predicted latency whose predicted loss fits.

    Args:
        problem: its cheap looks are read.
        space: the plans.
    """

    def __init__(self, problem: Problem, space: PlanSpace) -> None:
        self._problem, self._space = problem, space

    def run(
        self,
        model: _LossModel,
        start: Plan,
        below_s: float,
        n_steps: int,
        tried: set[Plan],
        rng: np.random.Generator,
    ) -> Plan | None:
        """The best plan that was not tried before;

        None where nothing fits that is predicted to be faster than `below_s`.
        """
        heat = 0.08 if start == self._problem.start_plan else 0.02
        now = self._state(start)
        energy = _energy(now, model)
        best, best_s = None, below_s
        for step in range(n_steps):
            temperature = heat * (1 - step / n_steps) ** 2 + 1e-5
            next_ = self._neighbour(now, rng, n_changes=2 if step % 3 == 0 else 1)
            changed = _energy(next_, model)
            if changed < energy or rng.random() < math.exp(
                -min((changed - energy) / temperature, 50.0)
            ):
                now, energy = next_, changed
                if now.latency_s < best_s and now.plan not in tried and model.excess(now.plan) <= 0:
                    best, best_s = now.plan, now.latency_s
        return best

    def _neighbour(self, state: _State, rng: np.random.Generator, n_changes: int) -> _State:
        at, touched = self._space.neighbour(state.at, rng, n_changes)
        plan = self._space.decode(at)
        costs = state.costs.copy()
        costs[list(touched)] = [
            c.latency_s
            for c in self._problem.latency.predict(
                self._problem.network.workloads_of(touched, plan)
            )
        ]
        return _State(at, plan, costs)

    def _state(self, plan: Plan) -> _State:
        at = self._space.encode(plan)
        plan = self._space.decode(at)
        return _State(
            at,
            plan,
            np.array(
                [
                    c.latency_s
                    for c in self._problem.latency.predict(self._problem.network.workloads(plan))
                ]
            ),
        )


@dataclass(frozen=True, eq=False)
class _State:
    at: NDArray[np.int64]
    plan: Plan
    costs: NDArray[np.float64]

    @property
    def latency_s(self) -> float:
        return float(self.costs.sum())


def _energy(state: _State, model: _LossModel) -> float:
    """Log latency, and two for each point of accuracy too much."""
    return math.log(state.latency_s) + 200 * max(model.excess(state.plan), 0.0)
