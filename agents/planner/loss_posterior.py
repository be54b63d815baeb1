"""What accuracy evaluations say of each group's and layer's loss:

a Bayesian linear model over the predicted loss curves.

The loss of a plan is taken for the sum over units (groups, and layers that schemes may prune) of an
unknown factor times the
curve that was predicted for the unit. Each evaluation tells something about all factors at once, so
few of them go a long way. Called by `surrogate`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossCurves
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.envs.problem import Problem

__all__ = ["LossPosterior"]

_LEVEL = (
    0.2  # standard deviation, before anything was evaluated, of what the factors have in common
)
_SPREAD = (
    0.4  # and of each group's own part; as fine-tuned plans deviate (`benchmarks/loss_model.py`)
)
_LEAST = 0.05  # of a factor: no group is free
_NOISE = 5e-4  # in accuracy, on top of the oracle's own error: what no sum of curves explains


class LossPosterior:
    """What is known of the factors of a network, given the evaluations so far.

    Args:
        network: whose plans are judged.
        curves: predicted for each unit.
    """

    def __init__(self, network: Network, curves: LossCurves) -> None:
        self._network, self._curves = network, curves
        n_groups = len(curves.scale)
        self.factors = np.ones(curves.n_units)
        self._covariance = np.eye(curves.n_units) * _SPREAD**2
        for units in (
            slice(None, n_groups),
            slice(n_groups, None),
        ):  # the levels of channels and of schemes are fitted apart
            self._covariance[units, units] += _LEVEL**2

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
                posterior.learn(
                    step.plan, problem.dense_accuracy - step.accuracy, step.standard_error
                )
        return posterior

    @property
    def curves(self) -> LossCurves:
        """Expected of each unit now."""
        return self.curves_of(self.factors)

    def curves_of(self, factors: NDArray[np.float64]) -> LossCurves:
        """The curves with factors of their own.

        Args:
            factors: `(n_units,)`, such as `draw` gives.
        """
        return self._curves.scaled(factors)

    def learn(self, plan: Plan, loss: float, standard_error: float = 0.0) -> None:
        """Takes an evaluation in.

        Args:
            plan: that was evaluated.
            loss: in accuracy, against the dense network.
            standard_error: of it.
        """
        x = self._curves.of_plan(self._network, plan)
        spread = self._covariance @ x
        gain = spread / (x @ spread + _NOISE**2 + standard_error**2)
        self.factors = np.maximum(self.factors + gain * (loss - x @ self.factors), _LEAST)
        self._covariance -= np.outer(gain, spread)

    def loss(self, plan: Plan) -> float:
        """Expected loss of a plan, in accuracy."""
        return float(self._curves.of_plan(self._network, plan) @ self.factors)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Factors as they may truly be, `(n_units,)`."""
        return np.maximum(
            rng.multivariate_normal(
                self.factors, self._covariance, method="eigh", check_valid="ignore"
            ),
            _LEAST,
        )
