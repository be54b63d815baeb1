"""Accuracy by a fitted loss model: the oracle of problems that have no images behind them."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence

import numpy as np

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Accuracy, Spending

__all__ = ["LossModelOracle"]

_NORMAL = statistics.NormalDist()


class LossModelOracle:
    """An accuracy oracle that reads a fitted loss model (see `protocols.AccuracyOracle`).

    Each plan that it was not asked for before counts as an evaluation, as it would be one of a real
    oracle.

    Args:
        network: whose plans are judged.
        loss_model: loss of each group, and of each layer that a scheme may prune.
        dense_accuracy: of the dense network.
        noise: standard deviation of the answers: a plan's answer stays the same, as that of a real
            oracle does.
        seed: of the noise.
        standard_error: stated with each answer; the noise where not given.
    """

    def __init__(
        self,
        network: Network,
        loss_model: LossModel,
        dense_accuracy: float,
        noise: float = 0.0,
        seed: int = 0,
        standard_error: float | None = None,
    ) -> None:
        self._network, self._dense = network, np.array(network.dense.widths, float)
        self._loss_model, self._accuracy, self._noise, self._seed = (
            loss_model,
            dense_accuracy,
            noise,
            seed,
        )
        self._standard_error = noise if standard_error is None else standard_error
        self.spending = Spending()
        self._asked: set[Plan] = set()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Dense accuracy less the loss of every group and layer, and the noise."""
        if plan not in self._asked:
            self._asked.add(plan)
            self.spending.accuracy_evaluations += 1
        deviation = self._noise * _standard_normal(self._seed, plan) if self._noise else 0.0
        return Accuracy(
            min(max(self._accuracy - self.loss(plan) + deviation, 0.0), 1.0), self._standard_error
        )

    def loss(self, plan: Plan) -> float:
        """What the loss model says, without noise; no evaluation."""
        of_groups = float(self._loss_model.group_losses(np.array(plan.widths) / self._dense).sum())
        return (
            of_groups + float(self._loss_model.layer_losses(self._network, plan).sum())
            if plan.schemes
            else of_groups
        )

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Of each plan."""
        return [self.accuracy(plan) for plan in plans]


def _standard_normal(seed: int, plan: Plan) -> float:
    """A draw that depends on the seed and the plan alone;

    a generator for each plan would take as long as all the rest of a step's evaluation.
    """
    asked = (seed, plan.widths, plan.schemes) if plan.schemes else (seed, plan.widths)
    digest = hashlib.blake2b(repr(asked).encode(), digest_size=6).digest()
    return _NORMAL.inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**48)
