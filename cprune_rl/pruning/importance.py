"""Scores how important each channel of a group is, by the criteria of the literature."""

from __future__ import annotations

import functools
import zlib
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

_CRITERIA = {
    "l1": functools.partial(tp.importance.GroupMagnitudeImportance, p=1),
    "l2": functools.partial(tp.importance.GroupMagnitudeImportance, p=2),
    "fpgm": tp.importance.FPGMImportance,
    "taylor": tp.importance.GroupTaylorImportance,
}


def score(importance: str, group: Any, *, channels: int, unit: int) -> NDArray[np.float64]:
    """Scores the channels of a group, `(channels,)`; higher is more important.

    Where channels go in units of several, the score is the mean of the unit. torch-pruning's
    criteria know its own kinds of layers: a grouped convolution's weights do not count, its
    neighbours' do.

    Args:
        importance: a key of `IMPORTANCES` but `random`.
        group: torch-pruning's description; its layers have gradients where `importance` is in
            `NEEDS_GRADIENTS`.
        channels: that it has, in units.
        unit: output channels of its root layer that go together.
    """
    criterion = _CRITERIA[importance]()
    values: NDArray[np.float64] = criterion(group).detach().double().numpy()
    return np.asarray(values[: channels * unit].reshape(channels, unit).mean(1))


def random_scores(group: str, channels: int, seed: int) -> NDArray[np.float64]:
    """Draws scores, `(channels,)`; a group's do not depend on what other groups there are."""
    return np.random.default_rng([seed, zlib.crc32(group.encode())]).random(channels)
