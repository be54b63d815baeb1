"""Legal steps: how many channels may go so that the fastest schedules keep their loop structure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from cprune_rl.core.network import Group

__all__ = ["channel_granularity", "legal_step", "legal_widths", "width_after_steps"]

_MAX_STEP_SHARE = 1 / 4  # of a group's channels
_MAX_STEPS = 32  # through a group, so that episodes stay short


def legal_widths(group: Group, step: int) -> tuple[int, ...]:
    """Widths that a group may have: multiples of its legal step from its minimum on, and all."""
    narrowest = math.ceil(group.minimum / step) * step
    return (*range(narrowest, group.channels, step), group.channels)


def channel_granularity(factors: Sequence[int], lanes: int = 1) -> int:
    """Channels that must go together for a schedule to keep its loop structure.

    Args:
        factors: its split of the output-channel loop; the largest is the one that shrinks (Kim et
            al., ECCV 2022, section 3.3).
        lanes: channels that one iteration of the loop computes.
    """
    return lanes * math.prod(factors) // max(factors)


def legal_step(channels: int, producers: Iterable[tuple[int, float]]) -> int:
    """The number of channels that one action removes from a group.

    A schedule keeps its loop structure if the step is a multiple of the product of its other tile
    factors (Kim et al., ECCV 2022, section 3.3). With several producers the published code takes
    the maximum, which breaks the other tilings. This takes the least common multiple.

    If that passes a quarter of the group, the costliest producer alone decides. If its own does
    too, the step is halved until it does not: half a vector is still filled evenly. A step is at
    least 1/32 of the group, so that episodes stay short.

    Args:
        channels: width of the group in the dense network.
        producers: of each task that writes the group, its `channel_granularity` and its total
            latency in seconds.

    Returns:
        A step of 1 to `channels` channels.
    """
    tilings = list(producers)
    max_step = channels * _MAX_STEP_SHARE
    step = math.lcm(*(granularity for granularity, _ in tilings))
    if step > max_step and tilings:
        step, _ = max(tilings, key=lambda tiling: tiling[1])
        while step > max_step and step % 2 == 0:
            step //= 2
    min_step = math.ceil(channels / _MAX_STEPS)
    return min(step * math.ceil(min_step / step), channels)


def width_after_steps(width: int, step: int, count: int) -> int:
    """The width after legal steps: the next lower multiple of `step`, then `count - 1` more."""
    return (-(-width // step) - count) * step
