"""A model of the accuracy that pruning costs, before anything is evaluated.

Losses add up over groups of channels and over layers that a scheme prunes. The shape of each term
was fitted to plans that were fine-tuned in full (`benchmarks/loss_model.py` for channels,
`benchmarks/scheme_losses.py` for schemes). The level of the terms is a run's own: its calibration
gives it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.scheme import Scheme

__all__ = ["DENSITY_POWER", "KnownLoss", "LossModel", "kept_ratios", "scheme_penalty"]

# Fitted to fine-tuned plans: a little pruning is nearly free, the last channels are not.
_UNIFORM_POWER = 3.5
_LEAST_SCALE = 1e-4  # in accuracy: no group is free
_LEAST_LAYER_SCALE = 1e-7  # in accuracy, at a penalty of 1: penalties go into the thousands
# A layer's loss goes with a power of one over its density, and of its block size.
DENSITY_POWER = 1.7
_BLOCK_POWER = 0.5
# Whole kernels lose as much as blocks of 0.55 times the density.
_COARSENESS = {"block": 1.0, "kernel": 2.8, "pattern": 2.9}


class KnownLoss(NamedTuple):
    """A plan that was fine-tuned in full, and what it lost.

    Attributes:
        plan: what is kept.
        loss: of accuracy on the search images, against the dense network; negative where it gained.
        standard_error: of the loss, by the number of those images.
    """

    plan: Plan
    loss: float
    standard_error: float = 0.0


def kept_ratios(network: Network, plan: Plan) -> NDArray[np.float64]:
    """Give the share of each group's channels that a plan keeps, `(n_groups,)` in (0, 1]."""
    kept: NDArray[np.float64] = np.array(plan.widths) / np.array(network.dense.widths)
    return kept


def scheme_penalty(scheme: Scheme, channels_out: int) -> float:
    """Say how much a layer loses by a scheme, in one unit for all schemes.

    Args:
        scheme: prunes the layer.
        channels_out: channels that the layer writes: a block has no more.
    """
    block = min(scheme.block, channels_out)
    sparsity = scheme.density**-DENSITY_POWER - 1
    return float(_COARSENESS[scheme.kind] * block**_BLOCK_POWER * sparsity)


@dataclass(frozen=True)
class LossModel:
    """Predicts the accuracy that a plan loses, as a sum over groups and layers.

    A group loses `scale * (1 - kept ratio) ** power`, a layer `layer_scale * scheme_penalty`.

    Attributes:
        scale: `(n_groups,)` loss in accuracy where a whole group would go.
        power: `(n_groups,)` curvature, above 0.
        layer_scale: `(n_layers,)` loss in accuracy of each of `Network.scheme_layers` at a penalty
            of 1; empty where nothing is known of schemes.
    """

    scale: NDArray[np.float64] = field(repr=False)
    power: NDArray[np.float64] = field(repr=False)
    layer_scale: NDArray[np.float64] = field(repr=False, default_factory=lambda: np.empty(0))

    @staticmethod
    def fit_uniform(kept: NDArray[np.float64], losses: NDArray[np.float64]) -> LossModel:
        """Fit one scale for all groups; the power is known.

        On fine-tuned plans of three networks this is likelier than a model fitted group by group,
        from plans that prune one group each. It ranked plans better in four of six cases
        (`benchmarks/loss_model.py`).

        Args:
            kept: kept ratios of plans, `(n_plans, n_groups)` in [0, 1].
            losses: of the same plans, `(n_plans,)` in accuracy.
        """
        n_groups = kept.shape[1]
        unit_losses = (np.clip(1.0 - kept, 0.0, 1.0) ** _UNIFORM_POWER).sum(axis=1)
        scale = _fit_scale(unit_losses, losses, _LEAST_SCALE)
        return LossModel(np.full(n_groups, scale), np.full(n_groups, _UNIFORM_POWER))

    def with_fitted_layers(
        self, network: Network, plans: Sequence[Plan], losses: NDArray[np.float64]
    ) -> LossModel:
        """Fit one scale for all layers that a scheme may prune, beside the groups' own.

        Args:
            network: whose layers.
            plans: prune by schemes alone.
            losses: of these plans, `(n_plans,)` in accuracy.
        """
        n_layers = len(network.scheme_layers)
        unit = LossModel(self.scale, self.power, np.ones(n_layers))
        unit_losses = np.array([unit.layer_losses(network, plan).sum() for plan in plans])
        scale = _fit_scale(unit_losses, losses, _LEAST_LAYER_SCALE)
        return LossModel(self.scale, self.power, np.full(n_layers, scale))

    @property
    def has_layers(self) -> bool:
        """Whether it predicts the losses of layers that schemes prune."""
        return len(self.layer_scale) > 0

    @property
    def n_units(self) -> int:
        """Number of terms: groups, and layers that a scheme may prune."""
        return len(self.scale) + len(self.layer_scale)

    def group_losses(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predict the loss of each group.

        Args:
            kept: kept ratios, `(..., n_groups)` in [0, 1].
        """
        # np.clip takes five times as long on so few values
        removed = np.minimum(np.maximum(1.0 - kept, 0.0), 1.0)
        return np.asarray(self.scale * removed**self.power)

    def layer_losses(self, network: Network, plan: Plan) -> NDArray[np.float64]:
        """Predict the loss of each layer by its scheme, `(n_layers,)`; empty without layers."""
        losses = np.zeros(len(self.layer_scale))
        for layer, text in plan.schemes if len(losses) else ():
            at = network.layer_index[layer]
            penalty = scheme_penalty(Scheme.parse(text), network.layer_channels[at])
            losses[at] = self.layer_scale[at] * penalty
        return losses

    def unit_losses(self, network: Network, plan: Plan) -> NDArray[np.float64]:
        """Predict the loss of each group, then of each layer, `(n_units,)`."""
        of_groups = self.group_losses(kept_ratios(network, plan))
        return np.concatenate([of_groups, self.layer_losses(network, plan)])

    def plan_loss(self, network: Network, plan: Plan) -> float:
        """Predict the accuracy that a plan loses, over all groups and layers."""
        of_groups = float(self.group_losses(kept_ratios(network, plan)).sum())
        return of_groups + float(self.layer_losses(network, plan).sum())

    def scaled(self, factors: NDArray[np.float64]) -> LossModel:
        """Multiply each term by a factor of its own.

        Args:
            factors: `(n_units,)`.
        """
        n_groups = len(self.scale)
        return LossModel(
            self.scale * factors[:n_groups], self.power, self.layer_scale * factors[n_groups:]
        )


def _fit_scale(
    unit_losses: NDArray[np.float64], losses: NDArray[np.float64], least: float
) -> float:
    """Fit the scale by which predicted losses come nearest to true ones, in least squares."""
    return max(float(unit_losses @ losses) / max(float(unit_losses @ unit_losses), 1e-12), least)
