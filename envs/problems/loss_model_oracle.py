"""Accuracy by a fitted loss model: the oracle of problems that have no images behind them."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Sequence

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Accuracy, Spending

__all__ = ["LossModelOracle"]

_NORMAL = statistics.NormalDist()


class LossModelOracle:
    """An `AccuracyOracle` that answers by a loss model, with noise if asked for.

    Each plan that it was not asked for before counts as an evaluation, as it would be one of a real
    oracle.

    Args:
        network: whose plans are judged.
        loss_model: gives the loss of each group, and of each layer that a scheme may prune.
        dense_accuracy: of the dense network, in [0, 1].
        noise: standard deviation of the answers. A plan's answer stays the same, as that of a real
            oracle does.
        seed: of the noise.
        standard_error: stated with each answer; None states the noise.
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
        self._network = network
        self._loss_model = loss_model
        self._dense_accuracy = dense_accuracy
        self._noise = noise
        self._seed = seed
        self._standard_error = noise if standard_error is None else standard_error
        self._evaluated: set[Plan] = set()
        self.spending = Spending()

    def accuracy(self, plan: Plan) -> Accuracy:
        """Give the dense accuracy less the loss of the plan, with the noise."""
        if plan not in self._evaluated:
            self._evaluated.add(plan)
            self.spending.accuracy_evaluations += 1
        value = self._dense_accuracy - self.loss(plan)
        if self._noise:
            value += self._noise * _standard_normal(self._seed, plan)
        return Accuracy(value=min(max(value, 0.0), 1.0), standard_error=self._standard_error)

    def loss(self, plan: Plan) -> float:
        """Give the loss of a plan without noise; this is no evaluation."""
        return self._loss_model.plan_loss(self._network, plan)

    def accuracies(self, plans: Sequence[Plan]) -> list[Accuracy]:
        """Give the accuracy of each plan."""
        return [self.accuracy(plan) for plan in plans]


def _standard_normal(seed: int, plan: Plan) -> float:
    """Draw a deviate that depends on the seed and the plan alone.

    A generator for each plan would take as long as all the rest of a step.
    """
    key = (seed, plan.widths, plan.schemes) if plan.schemes else (seed, plan.widths)
    digest = hashlib.blake2b(repr(key).encode(), digest_size=6).digest()
    return _NORMAL.inv_cdf((int.from_bytes(digest, "big") + 0.5) / 2**48)
