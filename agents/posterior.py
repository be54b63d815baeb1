"""What accuracy evaluations say of each group's loss: a Bayesian linear model over the predicted loss curves.

The loss of a plan is taken for the sum over groups of an unknown factor times the curve that was predicted for the
group. Each evaluation tells something about all factors at once, so few of them go a long way. Called by `surrogate`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.searcher import SearchStep
from cprune_rl.contracts import LossCurves
from cprune_rl.envs.problem import Problem
from cprune_rl.table import Network, Plan

__all__ = ["LossPosterior"]

_LEVEL = 0.2  # standard deviation, before anything was evaluated, of what the factors have in common
_SPREAD = 0.4  # and of each group's own part; as fine-tuned plans deviate (`benchmarks/loss_model.py`)
_LEAST = 0.05  # of a factor: no group is free
_NOISE = 5e-4  # in accuracy, on top of the oracle's own error: what no sum of curves explains


class LossPosterior:
    """What is known of the factors of a network, given the evaluations so far.

    Args:
        network: whose plans are judged.
        curves: predicted for each group.
    """

    def __init__(self, network: Network, curves: LossCurves) -> None:
        self._dense, self._curves = np.array(network.dense.widths, float), curves
        n = len(self._dense)
        self.factors = np.ones(n)
        self._covariance = np.eye(n) * _SPREAD**2 + _LEVEL**2

    @staticmethod
    def of(problem: Problem, history: Iterable[SearchStep]) -> LossPosterior:
        """That of a problem after the evaluations of a search.

        Args:
            problem: whose curves are believed before any evaluation.
            history: steps without an accuracy teach nothing.
        """
        posterior = LossPosterior(problem.network, problem.curves)
        for step in history:
            if step.accuracy is not None:
                posterior.learn(step.plan, problem.dense_accuracy - step.accuracy, step.standard_error)
        return posterior

    @property
    def curves(self) -> LossCurves:
        """Expected of each group now."""
        return self.curves_of(self.factors)

    def curves_of(self, factors: NDArray[np.float64]) -> LossCurves:
        """The curves with factors of their own.

        Args:
            factors: `(n_groups,)`, such as `draw` gives.
        """
        return LossCurves(self._curves.scale * factors, self._curves.power)

    def learn(self, plan: Plan, loss: float, standard_error: float = 0.0) -> None:
        """Takes an evaluation in.

        Args:
            plan: that was evaluated.
            loss: in accuracy, against the dense network.
            standard_error: of it.
        """
        x = self._curves_at(plan.widths)
        spread = self._covariance @ x
        gain = spread / (x @ spread + _NOISE**2 + standard_error**2)
        self.factors = np.maximum(self.factors + gain * (loss - x @ self.factors), _LEAST)
        self._covariance -= np.outer(gain, spread)

    def loss(self, widths: Sequence[int] | NDArray[np.float64]) -> float:
        """Expected loss of a plan, in accuracy."""
        return float(self._curves_at(widths) @ self.factors)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Factors as they may truly be, `(n_groups,)`."""
        return np.maximum(rng.multivariate_normal(self.factors, self._covariance, method="eigh", check_valid="ignore"), _LEAST)

    def _curves_at(self, widths: Sequence[int] | NDArray[np.float64]) -> NDArray[np.float64]:
        return self._curves.loss(np.asarray(widths, float) / self._dense)
