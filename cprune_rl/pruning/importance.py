"""How important each channel of a group is, by the criteria of the literature.

Called by `groups`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch_pruning as tp
from numpy.typing import NDArray

__all__ = ["IMPORTANCES", "NEEDS_GRADIENTS", "random_scores", "score"]

IMPORTANCES = {
    "l1": "magnitude of the weights, L1 (Li et al., ICLR 2017)",
    "l2": "magnitude of the weights, L2",
    "fpgm": "distance to the geometric median (He et al., CVPR 2019)",
    "taylor": "first-order change of the loss (Molchanov et al., CVPR 2019)",
    "random": "drawn at random: what a criterion must beat",
}
NEEDS_GRADIENTS = ("taylor",)


def score(name: str, group: Any, channels: int, unit: int) -> NDArray[np.float64]:
    """Scores the channels of a group, `(channels,)`;

    higher is more important. Where they go in units of several, the mean of a unit is its score.

    torch-pruning's criteria know its own kinds of layers: the weights of a grouped convolution
    count in none, its neighbours' do.

    Args:
        name: a key of `IMPORTANCES` but `random`.
        group: torch-pruning's description; its layers have gradients where `name` is in
            `NEEDS_GRADIENTS`.
        channels: that it has, in units.
        unit: output channels of its root layer that go together.
    """
    criteria: dict[str, Callable[[], Any]] = {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "fpgm": tp.importance.FPGMImportance,
        "taylor": tp.importance.GroupTaylorImportance,
    }
    values: NDArray[np.float64] = criteria[name]()(group).detach().double().numpy()
    return np.asarray(values[: channels * unit].reshape(channels, unit).mean(1))


def random_scores(root: str, channels: int, seed: int) -> NDArray[np.float64]:
    """Scores by chance, `(channels,)`; a group's do not depend on what other groups there are.

    Args:
        root: name of the group.
        channels: that it has.
        seed: same seed, same scores.
    """
    return np.random.default_rng([seed, zlib.crc32(root.encode())]).random(channels)
