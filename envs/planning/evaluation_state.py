"""Where a search stands that pays for evaluations: what it believes, asked and has verified.

A plan can be evaluated cheaply, by the oracle, or in full, by a fine-tune that the final gate
judges. Both correct one belief about the losses (`core.loss_belief`). Candidates are plans that
promise to be faster than the best verified one. What a full evaluation of a candidate promises is
the probability that it passes times its log latency ratio to the best verified plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.loss_belief import BeliefPrior, LossBelief
from cprune_rl.core.network import Plan
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.planning.model_annealing import ModelAnnealing, RiskLimit
from cprune_rl.envs.planning.plan_spaces import ChannelSpace
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import ConfigError

__all__ = ["CandidatePlan", "EvaluationState", "PlanningSettings"]

_SCALE_ANSWERS = 2.0  # answers as expected that the prior of the deviations' scale counts for
# What a cheap answer may come to, for the expectation over it: five points of Gauss and Hermite.
_POINTS, _WEIGHTS = np.polynomial.hermite_e.hermegauss(5)


@dataclass(frozen=True, kw_only=True)
class PlanningSettings:
    """How candidates are made.

    Attributes:
        cautions: standard deviations of the belief that candidates for a full evaluation keep in
            hand; each makes a candidate.
        last_cautions: the same for the last full evaluation, where nothing passed before.
        first_steps: annealing steps from the dense network.
        steps: of annealing from another plan.
        prior: of the belief.
    """

    cautions: tuple[float, ...] = (0.0, 0.5, 1.0, 1.5, 2.0)
    last_cautions: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0, 4.0)
    first_steps: int = 1500
    steps: int = 600
    prior: BeliefPrior = field(default_factory=BeliefPrior)


class CandidatePlan(NamedTuple):
    """A plan that may be evaluated.

    Attributes:
        plan: the candidate.
        why: where it comes from.
        latency_s: predicted, or measured.
    """

    plan: Plan
    why: str
    latency_s: float


class EvaluationState:
    """What is believed, asked and verified.

    Args:
        problem: lets a search ask the final gate.
        n_looks: how often at most the gate is asked.
        settings: of the candidates.
        rng: what the annealing draws from.

    Attributes:
        belief: of the losses.
        dense_s: latency of the dense network.
        best_s: latency of the fastest plan that passed; the dense one's before.
        best: that plan.
        tried_cheap: plans that the oracle answered for.
        tried_full: plans that the gate answered for; the dense one needs no answer.

    Raises:
        ConfigError: the problem has no full fine-tunes.
    """

    def __init__(
        self,
        problem: Problem,
        n_looks: int,
        settings: PlanningSettings,
        rng: np.random.Generator,
    ) -> None:
        if problem.full_finetunes is None:
            raise ConfigError(
                f"{problem.name} lets no search ask the final gate, as `verified` does: take "
                "another method, or give `compare` its --gate-images"
            )
        self._problem = problem
        self._settings = settings
        self._rng = rng
        self._n_looks = n_looks
        dense = problem.network.dense
        table = SubgraphTable.from_costs(problem.network, dense, problem.latency.measure(dense))
        self._annealing = ModelAnnealing(problem, ChannelSpace(problem.network, table.steps))
        self.belief = LossBelief(problem.network, problem.loss_model, settings.prior)
        for known in problem.known_losses:
            self.belief.learn_full(*known)
        self.dense_s = table.latency_s
        self.best_s = table.latency_s
        self.best = dense
        self.last = dense
        self.tried_cheap = {dense}
        self.tried_full = {dense}
        self._surprises: list[float] = []

    @property
    def gate(self) -> GateModel:
        """What is known of the gate."""
        assert self._problem.full_finetunes is not None
        return self._problem.full_finetunes.gate

    @property
    def allowed_loss(self) -> float:
        """Loss that may be planned for: the gate's margin is off it."""
        return self.gate.planned_loss(self._n_looks)

    def learn_cheap(self, plan: Plan, accuracy: float | None, standard_error: float) -> None:
        """Take an answer of the oracle in.

        Args:
            plan: that was asked about.
            accuracy: None where it could not be measured: it is not asked about again.
            standard_error: of the accuracy.
        """
        self.tried_cheap.add(plan)
        if accuracy is not None:
            loss = self._problem.dense_accuracy - accuracy
            self.belief.learn_cheap(plan, loss, standard_error)
            self.last = plan

    def learn_full(
        self, plan: Plan, accuracy: float | None, standard_error: float, passed_s: float = math.inf
    ) -> None:
        """Take an answer of the gate in; the arguments are those of `learn_cheap`.

        Args:
            plan: that was asked about.
            accuracy: of the full fine-tune, on search images.
            standard_error: of the accuracy.
            passed_s: latency of the plan, where it passed.
        """
        self.tried_full.add(plan)
        if accuracy is not None:
            loss = self._problem.dense_accuracy - accuracy
            expected, deviation = self.belief.expected(plan)
            variance = deviation**2 + standard_error**2
            self._surprises.append((loss - expected) ** 2 / variance)
            self.belief.learn_full(plan, loss, standard_error)
            self.last = plan
        if passed_s < self.best_s:
            self.best_s = passed_s
            self.best = plan

    def fastest_expected(self) -> Plan | None:
        """Find the fastest plan that is expected to pass and was not asked about."""
        limit = RiskLimit(self.belief, 0.0, self.allowed_loss)
        return self._anneal(limit, self.tried_cheap | self.tried_full)

    def candidates(
        self, more: Iterable[tuple[Plan, str]] = (), is_last: bool = False
    ) -> list[CandidatePlan]:
        """Make candidates, each of which promises to be faster than the best verified plan.

        Args:
            more: plans of others, and where they come from.
            is_last: whether the gate is asked once more only.
        """
        found: dict[Plan, CandidatePlan] = {}
        for plan, why in self._plans(more, is_last):
            latency_s = self._problem.predicted_s(plan)
            if plan not in self.tried_full and plan not in found and latency_s < self.best_s:
                found[plan] = CandidatePlan(plan, why, latency_s)
        return list(found.values())

    def probability(self, plan: Plan) -> float:
        """Give the probability that a plan passes."""
        loss, deviation = self.belief.expected(plan)
        return self._pass_probability(loss, deviation)

    def _pass_probability(self, loss: float, deviation: float) -> float:
        """Widen the deviation where the answers of the gate were further off than it says.

        The gate is asked about plans that the belief likes best. So errors of the belief show
        there more than elsewhere. The scale is that of a chi-squared prior.
        """
        n = _SCALE_ANSWERS + len(self._surprises)
        scale = math.sqrt(max((_SCALE_ANSWERS + sum(self._surprises)) / n, 1.0))
        return self.gate.pass_probability(loss, scale * deviation, self._n_looks)

    def log_gain(self, candidate: CandidatePlan) -> float:
        """Give the log latency ratio of the best verified plan to a candidate, at least 0."""
        if not math.isfinite(candidate.latency_s):
            return 0.0
        return max(math.log(self.best_s / candidate.latency_s), 0.0)

    def full_improvement(self, candidate: CandidatePlan) -> float:
        """Give the expected log latency ratio that a full evaluation comes to."""
        return self.probability(candidate.plan) * self.log_gain(candidate)

    def cheap_improvement(
        self, candidate: CandidatePlan, others: Sequence[CandidatePlan], standard_error: float
    ) -> float:
        """Give what an answer of the oracle is worth to the choice of the next full evaluation.

        It may make the candidate the better choice, or another one: the knowledge gradient
        (Frazier et al., 2008), other candidates' losses taken as they are believed now.

        Args:
            candidate: that is asked about.
            others: what may be chosen in its place.
            standard_error: that the oracle states, in accuracy.
        """
        other = max((self.full_improvement(each) for each in others), default=0.0)
        loss, deviation = self.belief.expected(candidate.plan)
        moved = self.belief.cheap_movement(candidate.plan, standard_error)
        left = math.sqrt(max(deviation**2 - moved**2, 0.0))
        gain = self.log_gain(candidate)
        after = [max(other, gain * self._pass_probability(loss + moved * z, left)) for z in _POINTS]
        now = max(other, self.full_improvement(candidate))
        return max(float(_WEIGHTS @ np.array(after) / _WEIGHTS.sum()) - now, 0.0)

    def _plans(self, more: Iterable[tuple[Plan, str]], is_last: bool) -> Iterable[tuple[Plan, str]]:
        settings = self._settings
        is_nothing = self.best == self._problem.network.dense
        for caution in settings.last_cautions if is_last and is_nothing else settings.cautions:
            limit = RiskLimit(self.belief, caution, self.allowed_loss)
            plan = self._anneal(limit, self.tried_full)
            if plan is not None:
                yield plan, f"annealing, {caution:g} deviations in hand"
        for known in self._problem.known_losses:
            yield known.plan, "calibration"
        yield from more

    def _anneal(self, limit: RiskLimit, tried: set[Plan]) -> Plan | None:
        """Anneal from the last plan; where no short way leads on, from the dense one."""
        settings = self._settings
        dense = self._problem.network.dense
        starts: Sequence[tuple[Plan, int]] = [(dense, settings.first_steps)]
        if self.last != dense:
            starts = [(self.last, settings.steps), *starts]
        for start, n_steps in starts:
            plan = self._annealing.run(
                [limit],
                start,
                n_steps=n_steps,
                faster_than_s=self.best_s,
                tried=tried,
                rng=self._rng,
            )
            if plan is not None:
                return plan
        return None
