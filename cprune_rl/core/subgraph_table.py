"""The subgraph table: what the tasks of a plan cost, and by which steps their groups may narrow.

It is CPrune's table C (Kim et al., ECCV 2022, figure 3), joined from a network and a source of
latencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload

__all__ = [
    "SubgraphTable",
    "TaskRow",
    "channel_granularity",
    "legal_step",
    "legal_widths",
    "width_after_steps",
]

_MAX_STEP_SHARE = 1 / 4  # of a group's channels
_MAX_STEPS = 32  # through a group, so that episodes stay short


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """One row of the subgraph table: a task of the current plan.

    Attributes:
        workload: the task.
        subgraphs: positions of its occurrences in `Network.subgraphs`; their number is its weight.
        latency_s: of one occurrence, by the fastest schedule.
        tile_factors: that schedule's split of the output-channel loop, outermost first; empty where
            it is not tiled.
        groups: positions of the groups that its layers produce.
        lanes: channels that one iteration of that loop computes.
    """

    workload: Workload
    subgraphs: tuple[int, ...]
    latency_s: float
    tile_factors: tuple[int, ...]
    groups: tuple[int, ...]
    lanes: int = 1

    @property
    def weight(self) -> int:
        """How many subgraphs share the task."""
        return len(self.subgraphs)

    @property
    def total_s(self) -> float:
        """Latency of all occurrences."""
        return self.latency_s * self.weight


@dataclass(frozen=True, kw_only=True)
class SubgraphTable:
    """Tasks, subgraphs, schedules, groups and legal steps of a plan.

    Attributes:
        network: what the plan belongs to.
        plan: the current plan.
        rows: one for each distinct task, in the order of first execution.
    """

    network: Network
    plan: Plan
    rows: tuple[TaskRow, ...]

    @cached_property
    def latency_s(self) -> float:
        """The estimate: the sum of tasks."""
        return sum(r.total_s for r in self.rows)

    @cached_property
    def steps(self) -> tuple[int, ...]:
        """Legal step of each group, in channels."""
        return _legal_steps(self.network, self.rows)

    @cached_property
    def legal_widths(self) -> tuple[tuple[int, ...], ...]:
        """Widths that each group may have, ascending."""
        return tuple(map(legal_widths, self.network.groups, self.steps))

    @staticmethod
    def from_costs(network: Network, plan: Plan, costs: Sequence[TaskCost]) -> SubgraphTable:
        """Joins a plan with the costs of its subgraphs.

        Occurrences of one task may differ where their neighbours' layouts do. The row has their
        mean, so that the table's sum is that of its subgraphs.
        """
        workloads = network.workloads(plan)
        occurrences: dict[str, list[int]] = {}
        for at, workload in enumerate(workloads):
            occurrences.setdefault(workload.key, []).append(at)
        rows = []
        for subgraphs in occurrences.values():
            first = subgraphs[0]
            rows.append(
                TaskRow(
                    workload=workloads[first],
                    subgraphs=tuple(subgraphs),
                    latency_s=_mean_latency([costs[at] for at in subgraphs]),
                    tile_factors=costs[first].tile_factors,
                    groups=_union([network.written_groups[at] for at in subgraphs]),
                    lanes=costs[first].lanes,
                )
            )
        return SubgraphTable(network=network, plan=plan, rows=tuple(rows))


def _mean_latency(costs: Sequence[TaskCost]) -> float:
    if len(costs) == 1:
        return costs[0].latency_s
    return sum(cost.latency_s for cost in costs) / len(costs)


def _union(groups: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if len(groups) == 1:
        return groups[0]
    return tuple(sorted({group for of_one in groups for group in of_one}))


def _legal_steps(network: Network, rows: Sequence[TaskRow]) -> tuple[int, ...]:
    producers: list[list[tuple[int, float]]] = [[] for _ in network.groups]
    for row in rows:
        if not row.tile_factors:
            continue
        together = channel_granularity(row.tile_factors, row.lanes)
        multipliers = {
            group: network.channel_multipliers[at].get(group, 1)
            for at in row.subgraphs
            for group in network.written_groups[at]
        }
        for group, multiplier in multipliers.items():
            step = together // math.gcd(together, multiplier)
            producers[group].append((step, row.total_s))
    return tuple(
        legal_step(group.channels, of_group)
        for group, of_group in zip(network.groups, producers, strict=True)
    )


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
