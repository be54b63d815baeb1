"""What cheap and full answers together say of each group's and layer's loss.

A plan's loss is a sum over units (groups, and layers that schemes may prune). What is unknown of
each unit: the factor of its true loss against the predicted one; for a group, by how much its
curvature differs; and the error of cheap answers, which goes with what was pruned. A full answer
sees the first two, a cheap one all three. So cheap answers alone never make a search surer of the
truth than their error allows, however many there are. Everything is Gaussian and linear: an answer
is one step of a Kalman filter.

`benchmarks/loss_model.py` fitted the deviations, on plans that were fine-tuned in full.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.loss_model import LossModel, kept_ratios
from cprune_rl.core.network import Network, Plan

__all__ = ["BeliefPrior", "LossBelief"]

_LEAST_FACTOR = 0.05  # no group is free
_NOISE = 5e-4  # in accuracy, beside an answer's own error: what no sum of losses explains
_GAIN_ERRORS = 2.0  # standard errors below 0 at which a loss is no chance any more


@dataclass(frozen=True, kw_only=True)
class BeliefPrior:
    """Standard deviations before any answer, as shares of the predicted losses.

    Attributes:
        level: of what the factors have in common.
        unit: of each unit's own part.
        power: of the logarithm of a group's curvature.
        cheap_level: of the error that all cheap answers have in common.
        cheap_unit: of each unit's own part of it.
    """

    level: float = 0.2
    unit: float = 0.4
    power: float = 0.2
    cheap_level: float = 0.2
    cheap_unit: float = 0.4


class LossBelief:
    """What is known of the losses of a network's plans.

    Args:
        network: whose plans.
        loss_model: what is predicted for each unit.
        prior: how far off that may be.
    """

    def __init__(
        self, network: Network, loss_model: LossModel, prior: BeliefPrior | None = None
    ) -> None:
        prior = prior or BeliefPrior()
        self._network = network
        self._loss_model = loss_model
        n_units = loss_model.n_units
        n_groups = len(loss_model.scale)
        n_true = n_units + n_groups
        self._n_true = n_true
        self._mean = np.concatenate([np.ones(n_units), np.zeros(n_groups + n_units)])
        self._covariance = np.zeros((n_true + n_units, n_true + n_units))
        factors, powers = slice(0, n_units), slice(n_units, n_true)
        errors = slice(n_true, None)
        self._covariance[factors, factors] = np.eye(n_units) * prior.unit**2
        self._covariance[powers, powers] = np.eye(n_groups) * prior.power**2
        self._covariance[errors, errors] = np.eye(n_units) * prior.cheap_unit**2
        for start, level in ((0, prior.level), (n_true, prior.cheap_level)):
            # the levels of channels and of schemes are fitted apart
            for units in (slice(start, start + n_groups), slice(start + n_groups, start + n_units)):
                self._covariance[units, units] += level**2
        self._known: dict[Plan, tuple[float, float]] = {}

    @property
    def loss_model(self) -> LossModel:
        """The loss model as expected now."""
        n_groups = len(self._loss_model.scale)
        n_units = self._loss_model.n_units
        scaled = self._loss_model.scaled(self._mean[:n_units])
        powers = scaled.power * np.exp(np.clip(self._mean[n_units : n_units + n_groups], -1, 1))
        return LossModel(scaled.scale, powers, scaled.layer_scale)

    def expected(self, plan: Plan) -> tuple[float, float]:
        """Give the loss of a plan after the full fine-tune, and its standard deviation."""
        known = self._known.get(plan)
        if known is None:
            row = self._true_row(plan)
            n = self._n_true
            variance = float(row @ self._covariance[:n, :n] @ row)
            known = float(row @ self._mean[:n]), math.sqrt(max(variance, 1e-12))
            self._known[plan] = known
        return known

    def learn_cheap(self, plan: Plan, loss: float, standard_error: float) -> None:
        """Take the oracle's answer in; the arguments are those of `learn_full`."""
        row = self._true_row(plan)
        errors = row[: self._loss_model.n_units]
        self._learn(np.concatenate([row, errors]), loss, standard_error)

    def learn_full(self, plan: Plan, loss: float, standard_error: float) -> None:
        """Take the answer of a full fine-tune in.

        Args:
            plan: that was evaluated.
            loss: in accuracy, against the dense network. It is negative where a fine-tune gained.
                Beyond its error that says nothing of units, which lose or do not, so it counts as
                far as the error goes.
            standard_error: of it.
        """
        row = self._true_row(plan)
        errors = np.zeros(self._loss_model.n_units)
        self._learn(np.concatenate([row, errors]), loss, standard_error)

    def _learn(self, row: NDArray[np.float64], loss: float, standard_error: float) -> None:
        error = math.hypot(standard_error, _NOISE)
        loss = max(loss, -_GAIN_ERRORS * error)
        spread = self._covariance @ row
        gain = spread / (row @ spread + error**2)
        self._mean = self._mean + gain * (loss - row @ self._mean)
        n_units = self._loss_model.n_units
        self._mean[:n_units] = np.maximum(self._mean[:n_units], _LEAST_FACTOR)
        self._covariance = self._covariance - np.outer(gain, spread)
        self._known.clear()

    def _true_row(self, plan: Plan) -> NDArray[np.float64]:
        """Derive a plan's loss by the factors and by the logarithms of the curvatures."""
        losses = self._loss_model.unit_losses(self._network, plan)
        n_groups = len(self._loss_model.scale)
        removed = np.clip(1.0 - kept_ratios(self._network, plan), 1e-9, 1.0)
        by_power = losses[:n_groups] * self._loss_model.power * np.log(removed)
        return np.concatenate([losses, by_power])
