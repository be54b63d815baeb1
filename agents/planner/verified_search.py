"""A search that learns from full fine-tunes, and has the final gate judge within the search.

Cheap answers repeat one and the same bias, so many of them do not buy what a few full ones do. Both
correct one belief about the losses (`envs.planning.evaluation_state`). Between full fine-tunes,
cheap answers are bought for the fastest plans that are expected to pass. Before each full fine-tune
the search plans anew at several degrees of caution, and takes the plan with the largest expected
gain: the probability that the gate lets it pass, times what it is faster than the best verified
one. The gate's margin is in that probability. The last fine-tune is a cautious one where nothing
passed before.

Candidates of others compete by the same rule: plans of the calibration, of which it is known what
they lose, those that held in the loop, be it before this search, the exact program's, and a
policy's in a model of the problem.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from cprune_rl.agents.baselines.width_milp import SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.model_problem import model_problem
from cprune_rl.core.network import Plan
from cprune_rl.envs.planning.evaluation_state import (
    CandidatePlan,
    EvaluationState,
    PlanningSettings,
)
from cprune_rl.envs.problem import Problem

__all__ = ["Propose", "VerifiedSearch", "VerifiedSettings"]

Propose = Callable[[Problem], tuple[Plan, str]]
"""From a model of the problem to a plan that is worth verifying, and what speaks for it."""


@dataclass(frozen=True, kw_only=True)
class VerifiedSettings:
    """How much a search asks.

    Attributes:
        n_cheap: answers of the oracle at most.
        n_full: full fine-tunes at most, each with a look of the final gate.
        planning: how candidates are made.
    """

    n_cheap: int = 24
    n_full: int = 3
    planning: PlanningSettings = field(default_factory=PlanningSettings)


class VerifiedSearch(SessionSearcher):
    """Searches by cheap and full answers together.

    Args:
        settings: of the search.
        propose: gives one more candidate before each full fine-tune.
        seed: of the annealing.
    """

    name = "verified"

    def __init__(
        self,
        settings: VerifiedSettings | None = None,
        propose: Propose | None = None,
        seed: int = 0,
    ) -> None:
        self.settings = settings or VerifiedSettings()
        self.propose = propose
        self.seed = seed

    def run(self, session: SearchSession) -> None:
        """Buy answers until they are spent, or nothing promises to be faster.

        Raises:
            ConfigError: the problem has no full fine-tunes.
        """
        _Search(session, self).run()


class _Search:
    """One search."""

    def __init__(self, session: SearchSession, search: VerifiedSearch) -> None:
        self._session = session
        self._problem = session.problem
        self._propose = search.propose
        left = session.left
        self._n_looks = _at_most(search.settings.n_full, left.full_finetunes)
        self._n_cheap = _at_most(search.settings.n_cheap, left.accuracy_evaluations)
        rng = np.random.default_rng([77, search.seed])
        planning = search.settings.planning
        self._state = EvaluationState(self._problem, max(self._n_looks, 1), planning, rng)
        for step in session.history:
            self._state.learn_cheap(step.plan, step.accuracy, step.standard_error)
        self._n_asked = 0
        self._n_looked = 0

    def run(self) -> None:
        """Buy the cheap answers in as many parts as there are full fine-tunes."""
        for number in range(self._n_looks):
            share = self._n_cheap // self._n_looks
            n_cheap = share + (number < self._n_cheap % self._n_looks)
            for _ in range(n_cheap):
                if self._session.is_spent or not self._ask_oracle():
                    break
            if not self._ask_gate(is_last=number == self._n_looks - 1):
                break

    def _ask_oracle(self) -> bool:
        """Evaluate the fastest plan that is expected to pass; whether there was one."""
        plan = self._state.fastest_expected()
        if plan is None:
            return False
        self._n_asked += 1
        step = self._session.try_plan(plan, f"cheap {self._n_asked}")
        self._state.learn_cheap(plan, step.accuracy, step.standard_error)
        return True

    def _ask_gate(self, is_last: bool) -> bool:
        """Fine-tune the candidate of largest expected gain in full; whether there was one."""
        chosen = self._choose(is_last)
        if chosen is None:
            return False
        plan = chosen.plan
        self._n_looked += 1
        loss, deviation = self._state.belief.expected(plan)
        step = self._session.look(
            plan,
            f"full {self._n_looked}",
            n_looks=self._n_looks,
            why=f"{chosen.why}; expected loss {loss:.2%} +- {deviation:.2%}, "
            f"passes with {self._state.probability(plan):.0%}",
        )
        passed_s = step.latency_s if step.accepted else math.inf
        self._state.learn_full(plan, step.accuracy, step.standard_error, passed_s)
        return True

    def _choose(self, is_last: bool) -> CandidatePlan | None:
        """Give the candidate of largest expected gain, its latency measured.

        Predictions are too good now and then, and whoever chooses by them chooses those. So the
        best candidate is measured, until the best one is one that was measured.
        """
        candidates = self._state.candidates(self._plans_of_others(), is_last)
        measured: dict[Plan, float] = {}
        while candidates:
            best = max(candidates, key=self._state.full_improvement)
            if self._state.full_improvement(best) <= 0:
                return None
            if best.plan in measured:
                return best
            measured[best.plan] = self._problem.measured_s(best.plan)
            candidates = [
                c._replace(latency_s=measured.get(c.plan, self._problem.predicted_s(c.plan)))
                for c in candidates
            ]
        return None

    def _plans_of_others(self) -> Iterator[tuple[Plan, str]]:
        for accepted in self._session.accepted[1:]:
            yield accepted.plan, "held in the loop"
        exact = self._exact()
        if exact is not None:
            yield exact, "exact program"
        if self._propose is not None:
            model = model_problem(self._problem, self._state.belief.loss_model)
            plan, why = self._propose(model)
            yield plan, f"policy: {why}" if why else "policy"

    def _exact(self) -> Plan | None:
        """Solve the program of all widths by the expected losses, as MDP does."""
        if self._state.allowed_loss <= 0:
            return None
        program = WidthProgram.from_problem(
            self._problem,
            self._session.widths,
            self._state.belief.loss_model,
            plan=self._state.last,
            varied=self._problem.network.touched_groups,
        )
        limits = SolverLimits(time_limit_s=5.0)
        solution = program.least_latency(self._state.allowed_loss, limits)
        return None if solution is None else solution.plan


def _at_most(wanted: int, limit: int | None) -> int:
    return wanted if limit is None else min(wanted, limit)
