"""What accuracy evaluations say of each group's and layer's loss:

a Bayesian linear model over the predicted losses.

The loss of a plan is taken for the sum over units (groups, and layers that schemes may prune) of an
unknown factor times the
curve that was predicted for the unit. Each evaluation tells something about all factors at once, so
few of them go a long way. Called by `surrogate`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel
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
_NOISE = 5e-4  # in accuracy, on top of the oracle's own error: what no sum of losses explains


class LossPosterior:
    """What is known of the factors of a network, given the evaluations so far.

    Args:
        network: whose plans are judged.
        loss_model: predicted for each unit.
    """

    def __init__(self, network: Network, loss_model: LossModel) -> None:
        self._network, self._loss_model = network, loss_model
        n_groups = len(loss_model.scale)
        self.factors = np.ones(loss_model.n_units)
        self._covariance = np.eye(loss_model.n_units) * _SPREAD**2
        for units in (
            slice(None, n_groups),
            slice(n_groups, None),
        ):  # the levels of channels and of schemes are fitted apart
            self._covariance[units, units] += _LEVEL**2

    @staticmethod
    def of(problem: Problem, history: Iterable[SearchStep]) -> LossPosterior:
        """That of a problem after the evaluations of a search.

        Args:
            problem: whose loss model is believed before any evaluation.
            history: steps without an accuracy teach nothing.
        """
        posterior = LossPosterior(problem.network, problem.loss_model)
        for step in history:
            if step.accuracy is not None:
                posterior.learn(
                    step.plan, problem.dense_accuracy - step.accuracy, step.standard_error
                )
        return posterior

    @property
    def loss_model(self) -> LossModel:
        """Expected of each unit now."""
        return self.loss_model_with(self.factors)

    def loss_model_with(self, factors: NDArray[np.float64]) -> LossModel:
        """The loss model with other factors.

        Args:
            factors: `(n_units,)`, such as `draw` gives.
        """
        return self._loss_model.scaled(factors)

    def learn(self, plan: Plan, loss: float, standard_error: float = 0.0) -> None:
        """Takes an evaluation in.

        Args:
            plan: that was evaluated.
            loss: in accuracy, against the dense network.
            standard_error: of it.
        """
        x = self._loss_model.unit_losses(self._network, plan)
        spread = self._covariance @ x
        gain = spread / (x @ spread + _NOISE**2 + standard_error**2)
        self.factors = np.maximum(self.factors + gain * (loss - x @ self.factors), _LEAST)
        self._covariance -= np.outer(gain, spread)

    def loss(self, plan: Plan) -> float:
        """Expected loss of a plan, in accuracy."""
        return float(self._loss_model.unit_losses(self._network, plan) @ self.factors)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Factors as they may truly be, `(n_units,)`."""
        return np.maximum(
            rng.multivariate_normal(
                self.factors, self._covariance, method="eigh", check_valid="ignore"
            ),
            _LEAST,
        )
