"""What accuracy evaluations say of each group's loss: a Bayesian linear model over the predicted loss curves.

The loss of a plan is taken for the sum over groups of an unknown factor times the curve that was predicted for the
group. Each evaluation tells something about all factors at once, so few of them go a long way. Called by `surrogate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cprune_rl.contracts import LossCurves
from cprune_rl.table import Network, Plan

__all__ = ["LossPosterior"]

_SPREAD = 0.6  # standard deviation of a group's factor before anything was evaluated
_LEAST = 0.05  # of a factor: no group is free
_NOISE = 5e-4  # in accuracy, on top of the oracle's own error: what no sum of curves explains


class LossPosterior:
    """Mean and standard deviation of a plan's loss, given the evaluations so far.

    Args:
        network: whose plans are judged.
        curves: predicted for each group.
    """

    def __init__(self, network: Network, curves: LossCurves) -> None:
        self._dense, self._curves = np.array(network.dense.widths, float), curves
        n = len(self._dense)
        self.factors = np.ones(n)
        self._covariance = np.eye(n) * _SPREAD**2

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

    def deviation(self, widths: Sequence[int] | NDArray[np.float64]) -> float:
        """Standard deviation of that."""
        x = self._curves_at(widths)
        return math.sqrt(max(float(x @ self._covariance @ x), 0.0))

    def _curves_at(self, widths: Sequence[int] | NDArray[np.float64]) -> NDArray[np.float64]:
        return self._curves.loss(np.asarray(widths, float) / self._dense)
