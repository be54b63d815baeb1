"""Plans that differ in which groups they prune, for a calibration that says something of each.

Uniform plans tell the level of the losses and nothing of a single group.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cprune_rl.core.network import Network, Plan

__all__ = ["diverse_plans"]

_PACE_SIGMA = 0.6  # of the logarithm of a group's pace
_LONGEST = 8.0  # time after which a group of mean pace keeps next to nothing
_HALVINGS = 30


def diverse_plans(network: Network, kept_ratios: Sequence[float], seed: int) -> list[Plan]:
    """Draw a pace for each group of each plan, and prune until a share of the channels is left.

    Args:
        network: whose plans.
        kept_ratios: mean kept ratio of the groups, one for each plan, in (0, 1]. A plan keeps more
            where groups have reached their minimum.
        seed: of the paces.
    """
    return [
        _at_ratio(network, ratio, np.random.default_rng([seed, number]))
        for number, ratio in enumerate(kept_ratios)
    ]


def _at_ratio(network: Network, ratio: float, rng: np.random.Generator) -> Plan:
    channels = np.array(network.dense.widths, float)
    minimum = np.array([group.minimum for group in network.groups])
    paces = np.exp(rng.normal(0.0, _PACE_SIGMA, len(channels)))

    def pruned(time: float) -> Plan:
        widths = np.clip(np.round(channels * np.exp(-time * paces)), minimum, channels)
        return Plan(tuple(int(width) for width in widths))

    low = 0.0
    high = _LONGEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        kept = float((np.array(pruned(middle).widths) / channels).mean())
        low, high = (middle, high) if kept > ratio else (low, middle)
    return pruned(high)
