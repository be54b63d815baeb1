"""Bayesian optimisation by Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS
2011; Watanabe and Hutter, 2023, for the floor).

A trial is a plan, one integer for each group: its place among the legal widths. The objective is
log latency, measured each time; the
constraint is the floor. A trial that is no faster than the best plan is not worth an evaluation:
its constraint is the loss predicted for it,
by the predicted losses and the factor by which evaluations were off from them, so that the estimator
still learns where plans hold.
"""

from __future__ import annotations

import math

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["Bayes"]

_UNIFORM = (0.9, 0.75, 0.6, 0.5, 0.4)  # kept ratios of the first trials
_FAILED = math.log(
    10.0
)  # of a plan that cannot be measured: as if ten times as slow as the dense one
_LEAST_SLACK = 1e-4  # in accuracy: the unit of the constraint


class Bayes:
    """See the module (and `searcher.Searcher`).

    Args:
        most_looks: trials.
        seed: of the sampler.
    """

    name = "bayes"

    def __init__(self, most_looks: int = 200, seed: int = 0) -> None:
        self._most_looks, self._seed = most_looks, seed

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Tries what the estimator proposes (see `searcher.Searcher`)."""
        import optuna  # half a second that no other method needs

        looks = Looks(problem, budget, on_step)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=self._seed, multivariate=True)
        )
        for ratio in _UNIFORM:
            study.enqueue_trial(
                {str(g): _nearest(widths, ratio) for g, widths in enumerate(looks.widths)}
            )
        floor = _Floor(looks)
        for _ in range(self._most_looks):
            if looks.session.is_spent:
                break
            trial = study.ask()
            plan = Plan(
                tuple(
                    widths[trial.suggest_int(str(g), 0, len(widths) - 1)]
                    for g, widths in enumerate(looks.widths)
                )
            )
            step = looks.take(plan, f"trial {trial.number + 1}", below_s=looks.best_s)
            trial.set_constraint("floor", floor.violation(plan, step.accuracy))
            study.tell(
                trial,
                math.log(step.latency_s / looks.dense_s)
                if math.isfinite(step.latency_s)
                else _FAILED,
            )
        return looks.session.result(self.name)


class _Floor:
    """By how much plans miss the floor, in slacks; at most 0 where they hold it."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks
        self._products, self._squares = 0.0, 0.0

    def violation(self, plan: Plan, accuracy: float | None) -> float:
        """By an accuracy, which is learnt from; by the predicted loss where it was not asked."""
        looks = self._looks
        predicted = looks.predicted_loss(plan)
        if accuracy is not None:
            loss = looks.problem.dense_accuracy - accuracy
            self._products, self._squares = (
                self._products + predicted * loss,
                self._squares + predicted**2,
            )
        else:
            loss = predicted * (max(self._products / self._squares, 0.0) if self._squares else 1.0)
        return (loss - looks.slack) / max(looks.slack, _LEAST_SLACK)


def _nearest(widths: tuple[int, ...], ratio: float) -> int:
    """Position of the width that keeps about a share of the channels."""
    return min(range(len(widths)), key=lambda at: abs(widths[at] - ratio * widths[-1]))
