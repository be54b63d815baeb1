"""Bayesian optimisation by Optuna's tree-structured Parzen estimator.

It is that of Bergstra et al. (NeurIPS 2011), with Watanabe and Hutter's constraint (2023) for the
floor. A trial is a plan, one integer for each group: its place among the legal widths. The
objective is log latency, measured each time; the constraint is the floor. A trial that is no faster
than the best plan is not evaluated. Its constraint is the predicted loss times the factor by which
evaluations were off from predictions, so the estimator still learns where plans hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import optuna

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan
from cprune_rl.envs.problem import Problem

__all__ = ["Bayes"]

_UNIFORM = (0.9, 0.75, 0.6, 0.5, 0.4)  # kept ratios of the first trials
# Log latency of a plan that cannot be measured: as if ten times as slow as the dense one.
_FAILED = math.log(10.0)
_LEAST_SLACK = 1e-4  # in accuracy: the unit of the constraint


@dataclass(frozen=True)
class Bayes(SessionSearcher):
    """Tries what the estimator proposes.

    Attributes:
        max_plans: that are tried.
        seed: of the sampler.
    """

    max_plans: int = 200
    seed: int = 0

    name = "bayes"

    def run(self, session: SearchSession) -> None:
        """Run a study."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed, multivariate=True)
        study = optuna.create_study(sampler=sampler)
        for ratio in _UNIFORM:
            study.enqueue_trial(
                {str(g): _nearest(widths, ratio) for g, widths in enumerate(session.widths)}
            )
        constraint = _FloorConstraint(session.problem)
        for _ in range(self.max_plans):
            if session.is_spent:
                break
            trial = study.ask()
            widths = [
                legal[trial.suggest_int(str(g), 0, len(legal) - 1)]
                for g, legal in enumerate(session.widths)
            ]
            step = session.try_once(
                Plan(tuple(widths)),
                f"trial {trial.number + 1}",
                only_if_faster_than=session.best.latency_s,
            )
            trial.set_constraint("floor", constraint.violation(step.plan, step.accuracy))
            is_measured = math.isfinite(step.latency_s)
            study.tell(
                trial, math.log(step.latency_s / session.dense_s) if is_measured else _FAILED
            )


class _FloorConstraint:
    """By how much plans miss the floor, in slacks; at most 0 where they hold it."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._products = 0.0
        self._squares = 0.0

    def violation(self, plan: Plan, accuracy: float | None) -> float:
        """Judge by an accuracy, which is learnt from; by the predicted loss where there is none."""
        predicted = self._problem.predicted_loss(plan)
        if accuracy is not None:
            loss = self._problem.dense_accuracy - accuracy
            self._products += predicted * loss
            self._squares += predicted**2
        elif self._squares:
            loss = predicted * max(self._products / self._squares, 0.0)
        else:
            loss = predicted
        slack = self._problem.slack
        return (loss - slack) / max(slack, _LEAST_SLACK)


def _nearest(widths: tuple[int, ...], ratio: float) -> int:
    """Position of the width that keeps about a share of the channels."""
    return min(range(len(widths)), key=lambda at: abs(widths[at] - ratio * widths[-1]))
