"""Where the values of a lowered network's parameters come from.

A parameter is a weight of the trained network, or is computed from some: a convolution's with the
batch norm behind it, or what a parametrisation makes of its own weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from cprune_rl.core.workload import Extent

__all__ = ["State", "WeightSource", "state_arrays"]

State = Mapping[str, torch.Tensor]
"""A state_dict."""


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """A parameter's values, computed from trained weights.

    Attributes:
        label: state_dict name of what it is made of, as tasks and plans name it. Two parameters
            have the same label where a layer is called twice with norms of its own.
        extents: of its axes.
        compute: its value, from a state_dict at any widths.
    """

    label: str
    extents: tuple[Extent, ...]
    compute: Callable[[State], torch.Tensor]

    @property
    def is_prunable(self) -> bool:
        """Whether its shape depends on a group's width."""
        return any(extent.terms for extent in self.extents)


def state_arrays(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Give a network's weights and statistics by their names, as `arguments` takes them."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}
