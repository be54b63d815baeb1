"""Search on a model of the problem, which is corrected by every plan that is verified.

Latency is what the problem predicts, loss the belief after what was evaluated. Each round anneals
from the best verified plan, measures the plan it comes to, asks for its accuracy, and learns from
the answer whether it held or not. Where the model sees nothing faster, a round goes by a model
drawn from the belief: one unlucky answer does not end the search.

Each turn ends with fallback plans: the fastest plans that are expected to leave some of the slack.
An oracle's answer is noisy, and of the plans that seem to hold the fastest is the luckiest: where
the final gate refuses it, a fallback is next. A plan found by an oracle's answers leans on those
that were too good, and so would its fallbacks. A fallback therefore leaves its share by a model
that believes the oracle by half, and holds by the one that believes it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.model_problem import model_problem
from cprune_rl.agents.planner.verified_search import Propose
from cprune_rl.core.loss_belief import BeliefPrior, LossBelief
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.planning.model_annealing import ExpectedLossLimit, ModelAnnealing
from cprune_rl.envs.planning.plan_spaces import ChannelSpace, PlanSpace
from cprune_rl.envs.problem import Problem

__all__ = ["MakeSpace", "SurrogateSearch", "SurrogateSettings", "surrogate_alone"]

MakeSpace = Callable[[Problem, SubgraphTable], PlanSpace]
"""From a problem and the table of where it begins to the plans to search."""


@dataclass(frozen=True, kw_only=True)
class SurrogateSettings:
    """How a search on a model goes.

    Attributes:
        turns: how often rounds and fallbacks come. A search that is cut short after the first turn
            has something to back off to.
        rounds: verified plans of a turn at most, fallbacks apart.
        first_steps: annealing steps of a round from the dense network.
        steps: of the others, and of fallbacks.
        margin: share of the slack that a plan may be expected to use.
        first_fallback_share: the same of a fallback that comes before all rounds.
        fallback_shares: the same of each fallback that ends a turn.
        last_fallback_shares: of further ones after the last turn, if the budget lasts: an oracle
            may be off by more than half.
        trust: share of what evaluations say of the losses, against what was predicted, that
            fallbacks believe. Short fine-tunes are off by about as much as the predictions
            (`benchmarks/loss_model.py`).
        patience: rounds end after so many in a row without a faster verified plan.
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


def _channel_space(problem: Problem, table: SubgraphTable) -> PlanSpace:
    return ChannelSpace(problem.network, table.steps)


class SurrogateSearch(SessionSearcher):
    """Searches on a model that it corrects by every plan it verifies.

    Args:
        settings: of the turns.
        make_space: the plans to search; widths of groups where not given.
        seed: of the annealing.
    """

    name = "surrogate"

    def __init__(
        self,
        settings: SurrogateSettings | None = None,
        make_space: MakeSpace = _channel_space,
        seed: int = 0,
    ) -> None:
        self.settings = settings or SurrogateSettings()
        self.make_space = make_space
        self.seed = seed

    def run(self, session: SearchSession) -> None:
        """Take turns from the dense network, with what was predicted of its groups."""
        self.take_turns(session)

    def take_turns(self, session: SearchSession, propose: Propose | None = None) -> None:
        """Take turns until they are done or the budget is spent.

        Args:
            session: its evaluations are learnt from, its best plan is where each turn starts.
            propose: says what to verify first in each turn.
        """
        for number in range(self.settings.turns):
            if number == 0 or not session.is_spent:
                self.take_turn(session, propose, number)

    def take_turn(
        self, session: SearchSession, propose: Propose | None = None, number: int = 0
    ) -> None:
        """Verify what is proposed, then go on by rounds and fallbacks.

        Args:
            session: its evaluations are learnt from, its best plan is where the turn starts.
            propose: says what to verify first.
            number: of the turn: each draws its own.
        """
        settings = self.settings
        turn = _Turn(session, self, number)
        if propose is not None and not session.is_spent:
            turn.verify_proposal(propose)
        if number == 0:
            turn.verify_fallbacks([settings.first_fallback_share])
        n_idle = 0
        for round_number in range(settings.rounds):
            if session.is_spent or n_idle >= settings.patience:
                break
            n_idle = 0 if turn.take_round(round_number) else n_idle + 1
        turn.verify_fallbacks(settings.fallback_shares)
        if number == settings.turns - 1:
            turn.verify_fallbacks(settings.last_fallback_shares)


def surrogate_alone(seed: int = 0) -> SurrogateSearch:
    """The agent's search without its policy, in twice as many turns."""
    return SurrogateSearch(SurrogateSettings(turns=2 * SurrogateSettings.turns), seed=seed)


class _Turn:
    """One turn of a search: what is known, and what was tried."""

    def __init__(self, session: SearchSession, search: SurrogateSearch, number: int) -> None:
        problem = session.problem
        self._problem = problem
        self._session = session
        self._settings = search.settings
        self._seed = search.seed
        self._number = number
        costs = problem.latency.measure(problem.start_plan)
        table = SubgraphTable.from_costs(problem.network, problem.start_plan, costs)
        prior = BeliefPrior.trusting()
        self._belief = LossBelief(problem.network, problem.loss_model, prior)
        for step in session.history:
            self._learn(step)
        self._tried = {problem.network.dense} | {step.plan for step in session.history}
        self._annealing = ModelAnnealing(problem, search.make_space(problem, table))

    def verify_proposal(self, propose: Propose) -> None:
        """Verify what somebody proposes who knows the problem as the model has it.

        It must promise to be faster than the best plan.
        """
        plan, why = propose(model_problem(self._problem, self._belief.loss_model))
        best_s = self._session.best.latency_s
        if plan not in self._tried and self._problem.predicted_s(plan) < best_s:
            self._verify(plan, "roll-out in the model", best_s, why=why)

    def take_round(self, number: int) -> bool:
        """Verify the fastest plan that the model expects to hold.

        Returns:
            Whether a faster plan was found that holds.
        """
        plan = self._faster_plan(number)
        if plan is None:
            return False
        return self._verify(plan, f"round {number + 1}", self._session.best.latency_s)

    def verify_fallbacks(self, shares: Sequence[float]) -> None:
        """Verify a fallback for each share of the slack.

        It is the fastest plan expected to use no more of the slack, the oracle believed in part,
        and to hold, the oracle believed.
        """
        settings = self._settings
        dense_s = self._session.dense_s
        for share in shares:
            if self._session.is_spent:
                return
            partly_believed = 1 + settings.trust * (self._belief.factors - 1)
            limits = [
                self._limit(share, partly_believed),
                self._limit(settings.margin, self._belief.factors),
            ]
            rng = self._rng(1000 + round(1000 * share))
            anneal = functools.partial(
                self._annealing.run, limits, faster_than_s=dense_s, tried=self._tried, rng=rng
            )
            plan = anneal(self._session.best.plan, n_steps=settings.steps)
            if plan is None:
                # No short way leads back from a plan that loses much more.
                plan = anneal(self._problem.start_plan, n_steps=settings.first_steps)
            if plan is not None:
                self._verify(plan, f"fallback at {share:.0%} of the slack", dense_s)

    def _faster_plan(self, number: int) -> Plan | None:
        """Find the fastest plan that is expected to hold.

        None where neither the model nor one drawn from the belief sees a faster one.
        """
        settings = self._settings
        best = self._session.best
        start = self._problem.start_plan
        rng = self._rng(number)
        anneal = functools.partial(
            self._annealing.run, faster_than_s=best.latency_s, tried=self._tried, rng=rng
        )
        expected = self._limit(settings.margin, self._belief.factors)
        n_steps = settings.first_steps if best.plan == start else settings.steps
        plan = anneal([expected], best.plan, n_steps=n_steps)
        if plan is None:
            drawn = self._limit(settings.margin, self._belief.draw(rng))
            plan = anneal([drawn], start, n_steps=settings.first_steps)
        return plan

    def _verify(self, plan: Plan, what: str, faster_than_s: float, *, why: str = "") -> bool:
        """Try a plan and learn from the answer; whether it was fast enough and held."""
        self._tried.add(plan)
        step = self._session.try_plan(
            plan,
            f"turn {self._number + 1}, {what}",
            why=why,
            only_if_faster_than=faster_than_s,
        )
        self._learn(step)
        return step.accepted

    def _learn(self, step: SearchStep) -> None:
        """Learn from a step that was evaluated."""
        if step.accuracy is not None:
            loss = self._problem.dense_accuracy - step.accuracy
            self._belief.learn_cheap(step.plan, loss, step.standard_error)

    def _rng(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, self._number, number])

    def _limit(self, share: float, factors: NDArray[np.float64]) -> ExpectedLossLimit:
        """Believe in factors of the losses, and allow a share of the slack."""
        allowed = share * self._problem.slack
        loss_model = self._problem.loss_model.scaled(factors)
        return ExpectedLossLimit(self._problem.network, loss_model, allowed)
