"""What accuracy evaluations say of each group's and layer's loss.

A Bayesian linear model over the predicted losses: the loss of a plan is the sum over units (groups,
and layers that schemes may prune) of an unknown factor times the loss predicted for the unit. Each
evaluation tells something about all factors at once, so a few of them go a long way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.envs.problem import Problem

__all__ = ["LossPosterior"]

# Standard deviation of what the factors have in common, before anything was evaluated.
_SHARED_SIGMA = 0.2
# That of each group's own part, as fine-tuned plans deviate (`benchmarks/loss_model.py`).
_OWN_SIGMA = 0.4
# No group is free: the least that a factor may be.
_LEAST_FACTOR = 0.05
# In accuracy, beside the oracle's own error: what no sum of losses explains.
_NOISE = 5e-4
# Standard errors below 0 at which a loss is no chance any more.
_GAIN_ERRORS = 2.0


class LossPosterior:
    """What is known of the factors of a network, given the evaluations so far.

    Args:
        network: whose plans are evaluated.
        loss_model: what is predicted for each unit.

    Attributes:
        factors: expected of each unit, `(n_units,)`.
    """

    def __init__(self, network: Network, loss_model: LossModel) -> None:
        self._network = network
        self._loss_model = loss_model
        self.factors = np.ones(loss_model.n_units)
        self._covariance = np.eye(loss_model.n_units) * _OWN_SIGMA**2
        n_groups = len(loss_model.scale)
        # The levels of channels and of schemes are fitted apart.
        for units in (slice(None, n_groups), slice(n_groups, None)):
            self._covariance[units, units] += _SHARED_SIGMA**2

    @staticmethod
    def from_history(problem: Problem, history: Iterable[SearchStep]) -> LossPosterior:
        """Learn from the evaluations of a search.

        Args:
            problem: whose loss model is believed before any evaluation.
            history: steps without an accuracy teach nothing.
        """
        posterior = LossPosterior(problem.network, problem.loss_model)
        for step in history:
            if step.accuracy is not None:
                loss = problem.dense_accuracy - step.accuracy
                posterior.learn(step.plan, loss, step.standard_error)
        return posterior

    @property
    def loss_model(self) -> LossModel:
        """The loss model as expected now."""
        return self.loss_model_with(self.factors)

    def loss_model_with(self, factors: NDArray[np.float64]) -> LossModel:
        """Scale the predicted losses.

        Args:
            factors: `(n_units,)`, such as `draw` gives.
        """
        return self._loss_model.scaled(factors)

    def learn(self, plan: Plan, loss: float, standard_error: float = 0.0) -> None:
        """Take an evaluation in.

        Args:
            plan: that was evaluated.
            loss: in accuracy, against the dense network. It is negative where a fine-tune gained.
                Beyond its error that says nothing of units, which lose or do not, so it counts as
                far as the error goes.
            standard_error: of it.
        """
        loss = max(loss, -_GAIN_ERRORS * math.hypot(standard_error, _NOISE))
        x = self._loss_model.unit_losses(self._network, plan)
        spread = self._covariance @ x
        gain = spread / (x @ spread + _NOISE**2 + standard_error**2)
        self.factors = np.maximum(self.factors + gain * (loss - x @ self.factors), _LEAST_FACTOR)
        self._covariance -= np.outer(gain, spread)

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw factors as they may truly be, `(n_units,)`."""
        drawn = rng.multivariate_normal(
            self.factors, self._covariance, method="eigh", check_valid="ignore"
        )
        return np.maximum(drawn, _LEAST_FACTOR)
