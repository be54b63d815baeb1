"""How likely a network passes the final gate, before the gate is asked.

The gate (`accuracy.final_gate`) asks that a lower bound of the accuracy holds the floor. So a
network must lose less than the floor allows, by a margin that depends on the number of images, on
how many of them the two networks disagree about, and on how often the gate is asked. A search that
plans for the floor itself is refused at the gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

__all__ = ["GateModel"]

_NORMAL = NormalDist()
# Of the images that the dense network gets wrong, those that a pruned and fine-tuned one gets
# right: 0.28 of the main job's network (`docs/results/resnet8-v0.2.json`: its gate's bound gives
# it).
_GAINED_SHARE = 0.3
_LARGEST_MARGIN = 0.75  # share of the slack


@dataclass(frozen=True, kw_only=True)
class GateModel:
    """What is known of a gate.

    Attributes:
        n_images: that it judges on.
        dense_accuracy: of the dense network, in [0, 1].
        floor: accuracy that must hold.
        risk: that a network below the floor passes in any look, in (0, 1).
        is_absolute: whether the floor is an accuracy by itself, so that nothing is paired.
        is_paired: whether it is known which images each network gets right.
    """

    n_images: int
    dense_accuracy: float
    floor: float
    risk: float = 0.05
    is_absolute: bool = False
    is_paired: bool = True

    @property
    def slack(self) -> float:
        """Accuracy that a network may truly lose."""
        return self.dense_accuracy - self.floor

    def disagreement(self, loss: float) -> float:
        """Predict the share of images that one network alone gets right.

        Args:
            loss: of accuracy, against the dense network.
        """
        gained = _GAINED_SHARE * (1 - self.dense_accuracy)
        return max(loss, -gained) + 2 * gained

    def deviation(self, loss: float) -> float:
        """Give the standard deviation of what the gate finds of a network that loses so much."""
        if self.is_absolute:
            return math.sqrt(self._own_variance(loss) / self.n_images)
        return self.loss_error(loss, self.n_images)

    def loss_error(self, loss: float, n_images: int) -> float:
        """Give the standard error of a loss that was found on so many images.

        Args:
            loss: of accuracy, as it was found.
            n_images: that both networks were judged on.
        """
        if self.is_paired:
            variance = max(self.disagreement(loss) - loss**2, 0.0)
        else:
            variance = self._own_variance(loss) + self._own_variance(0.0)
        return math.sqrt(variance / n_images)

    def _own_variance(self, loss: float) -> float:
        """Variance of one image's answer, of a network that loses so much."""
        accuracy = min(max(self.dense_accuracy - loss, 0.0), 1.0)
        return accuracy * (1 - accuracy)

    def margin(self, loss: float, n_looks: int) -> float:
        """Give the accuracy above the floor that a network must show.

        Args:
            loss: of accuracy that the network truly has.
            n_looks: how often at most the search asks.
        """
        return -_NORMAL.inv_cdf(self.risk / n_looks) * self.deviation(loss)

    def planned_loss(self, n_looks: int) -> float:
        """Give the loss that a search may plan for: such a network passes every other time.

        Where a gate has so few images that its margin takes nearly all, a quarter of the slack is
        left to plan with.
        """
        margin = self.margin(self.slack, n_looks)
        return self.slack - min(margin, _LARGEST_MARGIN * self.slack)

    def pass_probability(self, loss: float, standard_error: float, n_looks: int) -> float:
        """Give the probability that a network passes.

        Args:
            loss: of accuracy, as it is believed.
            standard_error: of that belief.
            n_looks: how often at most the search asks.
        """
        spread = math.hypot(standard_error, self.deviation(loss))
        left = self.slack - loss - self.margin(loss, n_looks)
        return _NORMAL.cdf(left / spread) if spread > 0 else float(left >= 0)
