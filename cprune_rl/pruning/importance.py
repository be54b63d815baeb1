"""How important each channel of a group is, by the criteria of the literature. Called by `groups`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch_pruning as tp
from numpy.typing import NDArray

__all__ = ["IMPORTANCES", "NEEDS_GRADIENTS", "score"]

IMPORTANCES = {
    "l1": "magnitude of the weights, L1 (Li et al., ICLR 2017)",
    "l2": "magnitude of the weights, L2",
    "fpgm": "distance to the geometric median (He et al., CVPR 2019)",
    "taylor": "first-order change of the loss (Molchanov et al., CVPR 2019)",
    "random": "drawn at random: what a criterion must beat",
}
NEEDS_GRADIENTS = ("taylor",)


def score(name: str, group: Any, root: str, channels: int, seed: int) -> NDArray[np.float64]:
    """Scores the channels of a group, `(channels,)`; higher is more important.

    Args:
        name: a key of `IMPORTANCES`.
        group: torch-pruning's description; its layers have gradients where `name` is in `NEEDS_GRADIENTS`.
        root: name of its root layer.
        channels: that it has.
        seed: of `random`.
    """
    if name == "random":
        return np.random.default_rng([seed, zlib.crc32(root.encode())]).random(channels)
    criteria: dict[str, Callable[[], Any]] = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": tp.importance.FPGMImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }
    found = criteria[name]()(group)
    return np.asarray(found.detach().double().numpy())
