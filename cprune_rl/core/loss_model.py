"""What pruning is expected to cost in accuracy, before anything is evaluated:

a curve for each group, and one for each layer that a scheme may prune.

Losses add up over groups and layers. Their shapes are fitted to plans that were fine-tuned in full
(`benchmarks/loss_model.py` for
channels, `benchmarks/scheme_losses.py` for schemes); their level is a run's own, by its
calibration. Plain values over numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import Scheme

__all__ = ["DENSITY_POWER", "LossModel", "scheme_penalty"]

_EVEN_POWER = (
    3.5  # fitted to fine-tuned plans: a little pruning is nearly free, the last channels are not
)
_LEAST_SCALE = 1e-4  # in accuracy: no group is free
_LEAST_OF_LAYERS = 1e-7  # the same of a penalty of 1: those of schemes go into the thousands
DENSITY_POWER = 1.7
"""Of one over the density, as a layer's loss goes with it."""
_BLOCK_POWER = 0.5  # of the block size
_COARSENESS = {
    "block": 1.0,
    "kernel": 2.8,
    "pattern": 2.9,
}  # whole kernels lose as much as blocks of 0.55 times the density


def scheme_penalty(scheme: Scheme, channels_out: int) -> float:
    """How much a layer loses by a scheme, in the same unit for all of them.

    Args:
        scheme: that prunes the layer.
        channels_out: that it writes: a block has no more.
    """
    block = min(scheme.block, channels_out)
    return float(
        _COARSENESS[scheme.kind] * block**_BLOCK_POWER * (scheme.density**-DENSITY_POWER - 1)
    )


@dataclass(frozen=True)
class LossModel:
    """Predicted accuracy loss of each group, `scale * (1 - kept ratio) ** power`, and of each layer
    that a scheme prunes, `layer_scale * scheme_penalty`.

    Attributes:
        scale: `(n_groups,)` loss, in accuracy, where a whole group would go.
        power: `(n_groups,)` curvature, above 0.
        layer_scale: `(n_layers,)` loss, in accuracy, of each of `Network.scheme_layers` at a penalty
            of 1; empty where nothing is known of schemes.
    """

    scale: NDArray[np.float64] = field(repr=False)
    power: NDArray[np.float64] = field(repr=False)
    layer_scale: NDArray[np.float64] = field(repr=False, default_factory=lambda: np.empty(0))

    @staticmethod
    def fit_uniform(kept: NDArray[np.float64], losses: NDArray[np.float64]) -> LossModel:
        """One curve for every group, of a power that is known and a scale that is fitted.

        On fine-tuned plans of three networks it is likelier than one that was measured group by
        group, a group
        pruned at a time, and ranked plans better in four of six cases (`benchmarks/loss_model.py`).

        Args:
            kept: kept ratios of plans, `(n_plans, n_groups)` in [0, 1].
            losses: of the same plans, `(n_plans,)` in accuracy.
        """
        removed = (np.clip(1.0 - kept, 0.0, 1.0) ** _EVEN_POWER).sum(axis=1)
        return LossModel(
            np.full(kept.shape[1], _level(removed, losses)), np.full(kept.shape[1], _EVEN_POWER)
        )

    def with_fitted_layers(
        self, network: Network, plans: Sequence[Plan], losses: NDArray[np.float64]
    ) -> LossModel:
        """The same with one level for every layer that a scheme may prune, fitted.

        Args:
            network: whose layers.
            plans: that prune by schemes alone.
            losses: of these plans, `(n_plans,)` in accuracy.
        """
        unit = LossModel(self.scale, self.power, np.ones(len(network.scheme_layers)))
        told = np.array([unit.layer_losses(network, plan).sum() for plan in plans])
        return LossModel(
            self.scale,
            self.power,
            np.full(len(network.scheme_layers), _level(told, losses, _LEAST_OF_LAYERS)),
        )

    @property
    def n_units(self) -> int:
        """Groups, and layers that a scheme may prune."""
        return len(self.scale) + len(self.layer_scale)

    def group_losses(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loss of each group.

        Args:
            kept: kept ratios, `(..., n_groups)` in [0, 1].
        """
        return np.asarray(
            self.scale * np.minimum(np.maximum(1.0 - kept, 0.0), 1.0) ** self.power
        )  # np.clip takes five times as long on so few values

    def layer_losses(self, network: Network, plan: Plan) -> NDArray[np.float64]:
        """Loss of each layer by its scheme, `(n_layers,)`.

        Args:
            network: whose plan.
            plan: to be judged.
        """
        found = np.zeros(len(self.layer_scale))
        for layer, text in plan.schemes if len(found) else ():
            at = network.layer_index[layer]
            found[at] = self.layer_scale[at] * scheme_penalty(
                Scheme.parse(text), network.layer_channels[at]
            )
        return found

    def plan_losses(self, network: Network, plan: Plan) -> NDArray[np.float64]:
        """Loss of each group, then of each layer, `(n_units,)`.

        Args:
            network: whose plan.
            plan: to be judged.
        """
        of_groups = self.group_losses(np.array(plan.widths) / network.dense.widths)
        return (
            np.concatenate([of_groups, self.layer_losses(network, plan)])
            if len(self.layer_scale)
            else of_groups
        )

    def scaled(self, factors: NDArray[np.float64]) -> LossModel:
        """The model with its losses times factors.

        Args:
            factors: `(n_units,)`.
        """
        n = len(self.scale)
        return LossModel(self.scale * factors[:n], self.power, self.layer_scale * factors[n:])


def _level(
    told: NDArray[np.float64], losses: NDArray[np.float64], least: float = _LEAST_SCALE
) -> float:
    """The scale by which what is told comes nearest to what was lost."""
    return max(float(told @ losses) / max(float(told @ told), 1e-12), least)
