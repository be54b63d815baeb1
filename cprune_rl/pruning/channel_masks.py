"""Plans as masks: the full network, with zero weights where removed channels would be read.

It computes what the pruned network computes, as the equivalence check has shown. It costs as much
as the full network, but has the same parameters for every plan: a supernet is trained with it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.pruning.groups import CoupledGroups

__all__ = ["ChannelMasks"]


class ChannelMasks:
    """Makes masks of a network's weights for any plan.

    Args:
        model: the dense network.
        coupled: its groups.
    """

    def __init__(self, model: nn.Module, coupled: CoupledGroups) -> None:
        self._shapes = {name: value.shape for name, value in model.named_parameters()}
        self._groups = coupled.groups
        # by channel, 0 for the most important
        self._ranks = {
            group.name: np.argsort(coupled.ranking[group.name]) for group in self._groups
        }
        self._readers = [p for p in coupled.slices.all if p.reads and p.group in self._ranks]

    def for_plan(self, plan: Plan) -> Mapping[str, torch.Tensor]:
        """Gives ones and zeros to multiply weights with, by name of the weight.

        Weights that stay whole are left out.
        """
        masks: dict[str, torch.Tensor] = {}
        widths = {g.name: width for g, width in zip(self._groups, plan.widths, strict=True)}
        for part in self._readers:
            is_kept = self._ranks[part.group][part.channels] < widths[part.group]
            if is_kept.all():
                continue
            weight = f"{part.layer}.weight"
            shape = [1] * len(self._shapes[weight])
            shape[part.input_axis] = self._shapes[weight][part.input_axis]
            mask = masks.setdefault(weight, torch.ones(shape))
            mask.view(-1)[part.positions] *= torch.from_numpy(is_kept).float()
        return masks
