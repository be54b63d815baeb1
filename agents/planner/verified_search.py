"""A search that learns from full fine-tunes, and has the final gate judge within the search.

Cheap answers repeat one and the same bias, so many of them do not buy what a few full ones do. Both
correct one belief about the losses (`loss_belief`). Between full fine-tunes, cheap answers are
bought for the fastest plans that are expected to pass. Before each full fine-tune the search plans
anew at several degrees of caution, and takes the plan with the largest expected gain: the
probability that the gate lets it pass, times what it is faster than the best verified one. The
gate's margin is in that probability. The last fine-tune is a cautious one where nothing passed
before.

Candidates of others, such as a policy's plans in a model of the problem, compete by the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cprune_rl.agents.baselines.width_milp import SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.loss_belief import BeliefPrior, LossBelief
from cprune_rl.agents.planner.model_annealing import ModelAnnealing, RiskLimit
from cprune_rl.agents.planner.model_problem import model_problem
from cprune_rl.agents.planner.plan_spaces import ChannelSpace
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import FullFinetunes
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import ConfigError

__all__ = ["Propose", "VerifiedSearch", "VerifiedSettings"]

Propose = Callable[[Problem], tuple[Plan, str]]
"""From a model of the problem to a plan that is worth verifying, and what speaks for it."""


@dataclass(frozen=True, kw_only=True)
class VerifiedSettings:
    """How much a search asks, and how cautious it is.

    Attributes:
        n_cheap: answers of the oracle at most.
        n_full: full fine-tunes at most, each with a look of the final gate.
        cautions: standard deviations of the belief that candidates for a full fine-tune keep in
            hand; each makes a candidate.
        last_cautions: the same for the last full fine-tune, where nothing passed before.
        first_steps: annealing steps from the dense network.
        steps: of annealing from another plan.
        prior: of the belief.
    """

    n_cheap: int = 24
    n_full: int = 3
    cautions: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    last_cautions: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 4.0)
    first_steps: int = 1500
    steps: int = 600
    prior: BeliefPrior = field(default_factory=BeliefPrior)


class _Candidate(NamedTuple):
    """A plan that may be fine-tuned in full.

    Attributes:
        plan: the candidate.
        why: where it comes from.
        latency_s: predicted, or measured.
    """

    plan: Plan
    why: str
    latency_s: float


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
    """One search: what is believed, what was tried, what was verified."""

    def __init__(self, session: SearchSession, search: VerifiedSearch) -> None:
        problem = session.problem
        if problem.full_finetunes is None:
            raise ConfigError(
                f"{problem.name} lets no search ask the final gate, as `verified` does: take "
                "another method, or give `compare` its --gate-images"
            )
        self._finetunes: FullFinetunes = problem.full_finetunes
        self._session = session
        self._problem = problem
        self._settings = search.settings
        self._propose = search.propose
        self._rng = np.random.default_rng([77, search.seed])
        left = session.left
        self._n_looks = _at_most(search.settings.n_full, left.full_finetunes)
        self._n_cheap = _at_most(search.settings.n_cheap, left.accuracy_evaluations)
        dense = problem.network.dense
        table = SubgraphTable.from_costs(problem.network, dense, problem.latency.measure(dense))
        self._annealing = ModelAnnealing(problem, ChannelSpace(problem.network, table.steps))
        self._belief = LossBelief(problem.network, problem.loss_model, search.settings.prior)
        for known in problem.known_losses:
            self._belief.learn_full(*known)
        self._best_s = session.dense_s
        self._last = dense
        self._tried_cheap = {dense}
        self._tried_full = {dense}

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
        allowed = self._finetunes.gate.planned_loss(self._n_looks)
        limit = RiskLimit(self._belief, 0.0, allowed)
        plan = self._anneal(limit, self._tried_cheap | self._tried_full)
        if plan is None:
            return False
        self._tried_cheap.add(plan)
        step = self._session.try_plan(plan, f"cheap {len(self._tried_cheap) - 1}")
        if step.accuracy is not None:
            loss = self._problem.dense_accuracy - step.accuracy
            self._belief.learn_cheap(plan, loss, step.standard_error)
            self._last = plan
        return True

    def _ask_gate(self, is_last: bool) -> bool:
        """Fine-tune the candidate of largest expected gain in full; whether there was one."""
        chosen = self._choose(is_last)
        if chosen is None:
            return False
        plan = chosen.plan
        self._tried_full.add(plan)
        loss, deviation = self._belief.expected(plan)
        probability = self._probability(plan)
        step = self._session.look(
            plan,
            f"full {len(self._tried_full) - 1}",
            n_looks=self._n_looks,
            why=f"{chosen.why}; expected loss {loss:.2%} +- {deviation:.2%}, "
            f"passes with {probability:.0%}",
        )
        if step.accuracy is not None:
            true_loss = self._problem.dense_accuracy - step.accuracy
            self._belief.learn_full(plan, true_loss, step.standard_error)
            self._last = plan
        if step.accepted:
            self._best_s = min(self._best_s, step.latency_s)
        return True

    def _choose(self, is_last: bool) -> _Candidate | None:
        """Give the candidate of largest expected gain, its latency measured.

        Predictions are too good now and then, and whoever chooses by them chooses those. So the
        best candidate is measured, until the best one is one that was measured.
        """
        candidates = list(self._candidates(is_last))
        measured: dict[Plan, float] = {}
        while candidates:
            best = max(candidates, key=self._expected_gain)
            if self._expected_gain(best) <= 0:
                return None
            if best.plan in measured:
                return best
            measured[best.plan] = self._problem.measured_s(best.plan)
            candidates = [
                c._replace(latency_s=measured.get(c.plan, self._problem.predicted_s(c.plan)))
                for c in candidates
            ]
        return None

    def _candidates(self, is_last: bool) -> Iterator[_Candidate]:
        """Make candidates, each of which promises to be faster than the best verified plan."""
        seen = set(self._tried_full)
        for plan, why in self._plans(is_last):
            latency_s = self._problem.predicted_s(plan)
            if plan not in seen and latency_s < self._best_s:
                seen.add(plan)
                yield _Candidate(plan, why, latency_s)

    def _plans(self, is_last: bool) -> Iterator[tuple[Plan, str]]:
        settings = self._settings
        gate = self._finetunes.gate
        allowed = gate.planned_loss(self._n_looks)
        is_nothing = self._best_s == self._session.dense_s
        cautions = settings.last_cautions if is_last and is_nothing else settings.cautions
        for caution in cautions:
            plan = self._anneal(RiskLimit(self._belief, caution, allowed), self._tried_full)
            if plan is not None:
                yield plan, f"annealing, {caution:g} deviations in hand"
        exact = self._exact(allowed)
        if exact is not None:
            yield exact, "exact program"
        if self._propose is not None:
            model = model_problem(self._problem, self._belief.loss_model)
            plan, why = self._propose(model)
            yield plan, f"policy: {why}" if why else "policy"

    def _exact(self, allowed: float) -> Plan | None:
        """Solve the program of all widths by the expected losses, as MDP does."""
        if allowed <= 0:
            return None
        program = WidthProgram.from_problem(
            self._problem,
            self._session.widths,
            self._belief.loss_model,
            plan=self._last,
            varied=self._problem.network.touched_groups,
        )
        solution = program.least_latency(allowed, SolverLimits(time_limit_s=5.0))
        return None if solution is None else solution.plan

    def _anneal(self, limit: RiskLimit, tried: set[Plan]) -> Plan | None:
        """Anneal from the last plan; where no short way leads on, from the dense one."""
        settings = self._settings
        dense = self._problem.network.dense
        starts: Sequence[tuple[Plan, int]] = [(dense, settings.first_steps)]
        if self._last != dense:
            starts = [(self._last, settings.steps), *starts]
        for start, n_steps in starts:
            plan = self._annealing.run(
                [limit],
                start,
                n_steps=n_steps,
                faster_than_s=self._best_s,
                tried=tried,
                rng=self._rng,
            )
            if plan is not None:
                return plan
        return None

    def _probability(self, plan: Plan) -> float:
        loss, deviation = self._belief.expected(plan)
        return self._finetunes.gate.pass_probability(loss, deviation, self._n_looks)

    def _expected_gain(self, candidate: _Candidate) -> float:
        """Give the expected log latency ratio to the best verified plan."""
        if not math.isfinite(candidate.latency_s):
            return 0.0
        gain = math.log(self._best_s / candidate.latency_s)
        return self._probability(candidate.plan) * max(gain, 0.0)


def _at_most(wanted: int, limit: int | None) -> int:
    return wanted if limit is None else min(wanted, limit)
