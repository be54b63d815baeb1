"""The final gate of a replay, and the full fine-tunes that ask it: images are drawn, not shown.

A plan's network has a true loss. How many of the gate's images it loses and gains is drawn, and the
same rule decides as in a run (`accuracy.final_gate.judge`).
"""

from __future__ import annotations

import zlib

import numpy as np

from cprune_rl.accuracy.final_gate import GateCriterion, judge
from cprune_rl.core.gate_model import GateModel
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Accuracy, FullAnswer, Spending

__all__ = ["DrawnFinetunes", "DrawnGate"]


class DrawnGate:
    """Decides about networks of known losses by drawn images. A plan's images stay the same.

    Args:
        model: number of images, floor and risk.
        seed: of the images.
    """

    def __init__(self, model: GateModel, seed: int) -> None:
        self.model = model
        self._seed = seed

    def passes(self, plan: Plan, loss: float, n_looks: int) -> bool:
        """Decide about a network.

        Args:
            plan: of it.
            loss: that it truly has, in accuracy.
            n_looks: how often at most the search asks.
        """
        model = self.model
        disagreement = model.disagreement(loss)
        lost, gained = (disagreement + loss) / 2, (disagreement - loss) / 2
        both = model.dense_accuracy - lost
        shares = np.maximum([both, lost, gained, 1 - both - lost - gained], 0.0)
        rng = np.random.default_rng([self._seed, zlib.crc32(repr(plan).encode())])
        counts = rng.multinomial(model.n_images, shares / shares.sum())
        dense_correct = np.repeat([True, True, False, False], counts)
        pruned_correct = np.repeat([True, False, True, False], counts)
        floor = model.floor
        if not model.is_absolute:  # it is counted from the dense network on the same images
            floor = float(dense_correct.mean()) - model.slack
        criterion = GateCriterion(
            floor=floor, is_absolute=model.is_absolute, n_looks=n_looks, risk=model.risk
        )
        return judge(dense_correct, pruned_correct, criterion).passed


class DrawnFinetunes:
    """Full fine-tunes of a replay (a `FullFinetunes`): the true loss, seen on so many images.

    Args:
        network: whose plans.
        true_losses: what plans lose.
        gate: decides.
        n_images: on which the accuracy is found that a search is told.
        seed: of those images.
    """

    def __init__(
        self, network: Network, true_losses: LossModel, gate: DrawnGate, n_images: int, seed: int
    ) -> None:
        self._network = network
        self._true_losses = true_losses
        self._gate = gate
        self._n_images = n_images
        self._seed = seed
        self.spending = Spending()

    @property
    def gate(self) -> GateModel:
        """What is known of the gate before it is asked."""
        return self._gate.model

    def look(self, plan: Plan, n_looks: int) -> FullAnswer:
        """Draw what the full fine-tune of a plan comes to."""
        self.spending.full_finetunes += 1
        loss = self._true_losses.plan_loss(self._network, plan)
        holds = self._gate.passes(plan, loss, n_looks)
        return FullAnswer(accuracy=self.accuracy(plan), holds=holds)

    def accuracy(self, plan: Plan) -> Accuracy:
        """Draw the accuracy on the search images; this is no look."""
        model = self._gate.model
        loss = self._true_losses.plan_loss(self._network, plan)
        error = model.loss_error(loss, self._n_images)
        rng = np.random.default_rng([self._seed, zlib.crc32(repr(plan).encode())])
        value = model.dense_accuracy - loss + error * rng.standard_normal()
        return Accuracy(
            value=float(np.clip(value, 0.0, 1.0)), standard_error=error, n_images=self._n_images
        )
