"""Plans as masks: a network of full size whose weights are cut off where a removed channel would be
read.

It computes what the pruned network computes (the guard has tried that), at full cost but with the
same parameters for
every plan: what a supernet is trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.pruning.groups import CoupledGroups

__all__ = ["ChannelMasks"]


@dataclass(frozen=True)
class _Reader:
    """Where one layer reads a group.

    Attributes:
        weight: name of its weight, whose axis 1 is cut.
        group: position of the group.
        positions: along that axis.
        ranks: of the channel at each, 0 for the most important.
    """

    weight: str
    group: int
    positions: torch.Tensor
    ranks: torch.Tensor


class ChannelMasks:
    """Masks of a network's weights for any plan.

    Args:
        model: the dense network.
        coupled: its groups.
    """

    def __init__(self, model: nn.Module, coupled: CoupledGroups) -> None:
        self._dims = {
            name: (value.dim(), value.shape[1])
            for name, value in model.state_dict().items()
            if value.dim() > 1
        }
        at = {g.name: i for i, g in enumerate(coupled.groups)}
        ranks = {
            g.name: torch.argsort(torch.tensor(coupled.ranking[g.name])) for g in coupled.groups
        }
        self._readers = [
            _Reader(
                f"{channel_slice.layer}.weight",
                at[channel_slice.group],
                torch.from_numpy(channel_slice.positions),
                ranks[channel_slice.group][torch.from_numpy(channel_slice.channels)],
            )
            for channel_slice in coupled.slices.all
            if channel_slice.reads and channel_slice.group in at
        ]

    def for_plan(self, plan: Plan) -> Mapping[str, torch.Tensor]:
        """Ones and zeros to multiply weights with, by name of the weight;

        those that stay whole are left out.
        """
        masks: dict[str, torch.Tensor] = {}
        for reader in self._readers:
            kept = reader.ranks < plan.widths[reader.group]
            if bool(kept.all()):
                continue
            dims, length = self._dims[reader.weight]
            mask = masks.setdefault(
                reader.weight, torch.ones(length).view(1, -1, *([1] * (dims - 2)))
            )
            mask.view(-1)[reader.positions] *= kept.float()
        return masks
