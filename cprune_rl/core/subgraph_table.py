"""The subgraph table: what the tasks of a plan cost, which groups they write, and by which steps
those may be narrowed.

CPrune's table C, of plain values. Joined from a `network.Network` and what a source of latencies
says.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload

__all__ = [
    "SubgraphTable",
    "TaskRow",
    "channel_granularity",
    "legal_step",
    "width_after_steps",
]


@dataclass(frozen=True)
class TaskRow:
    """One row of the subgraph table: a task of the current plan.

    Attributes:
        workload: the task.
        subgraphs: positions of its occurrences in `Network.subgraphs`; their number is its weight.
        latency_s: of one occurrence, by the fastest program.
        tile_factors: that program's split of the output-channel loop, outermost first; empty where
            it is not tiled.
        groups: positions of the groups its layers produce.
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


@dataclass(frozen=True)
class SubgraphTable:
    """CPrune's table C (Kim et al., ECCV 2022, figure 3):

    tasks, subgraphs, programs, groups and legal steps.

    Attributes:
        network: what the plan belongs to.
        plan: the current plan.
        rows: one for each distinct task, in the order of first execution.
        steps: legal step of each group, in channels.
    """

    network: Network
    plan: Plan
    rows: tuple[TaskRow, ...]
    steps: tuple[int, ...]

    @cached_property
    def latency_s(self) -> float:
        """The estimate: the sum of tasks."""
        return sum(r.total_s for r in self.rows)

    @staticmethod
    def from_costs(network: Network, plan: Plan, costs: Sequence[TaskCost]) -> SubgraphTable:
        """Joins a plan with what its subgraphs' fastest programs cost.

        Occurrences of one task may differ where their neighbours' layouts do: the row has their
        mean, so that
        the table's sum is that of its subgraphs.

        Args:
            network: what the plan belongs to.
            plan: the current plan.
            costs: of each subgraph.
        """
        occurrences: dict[str, list[int]] = {}
        workloads = network.workloads(plan)
        for index, workload in enumerate(workloads):
            occurrences.setdefault(workload.key, []).append(index)
        rows = []
        for at in occurrences.values():
            first = costs[at[0]]
            latency_s = (
                first.latency_s if len(at) == 1 else sum(costs[i].latency_s for i in at) / len(at)
            )
            rows.append(
                TaskRow(
                    workloads[at[0]],
                    tuple(at),
                    latency_s,
                    first.tile_factors,
                    _union(network.written_groups, at),
                    first.lanes,
                )
            )
        return SubgraphTable(network, plan, tuple(rows), _legal_steps(network, rows))


def _union(sets: Sequence[tuple[int, ...]], at: Sequence[int]) -> tuple[int, ...]:
    return sets[at[0]] if len(at) == 1 else tuple(sorted({g for i in at for g in sets[i]}))


def _legal_steps(network: Network, rows: Sequence[TaskRow]) -> tuple[int, ...]:
    producers: list[list[tuple[int, float]]] = [[] for _ in network.groups]
    for row in rows:
        if not row.tile_factors:
            continue
        together = channel_granularity(row.tile_factors, row.lanes)
        units = {
            group: network.channel_multipliers[s].get(group, 1)
            for s in row.subgraphs
            for group in network.written_groups[s]
        }
        for group, unit in units.items():
            producers[group].append((together // math.gcd(together, unit), row.total_s))
    return tuple(
        legal_step(g.channels, producers_of_g)
        for g, producers_of_g in zip(network.groups, producers, strict=True)
    )


def channel_granularity(factors: Sequence[int], lanes: int = 1) -> int:
    """Channels that must go together for a program to keep its loop structure.

    Args:
        factors: its split of the output-channel loop; the largest is the one that shrinks (Kim et
            al., ECCV 2022, section 3.3).
        lanes: channels that one iteration of the loop computes.
    """
    return lanes * math.prod(factors) // max(factors)


def legal_step(channels: int, producers: Iterable[tuple[int, float]]) -> int:
    """The number of channels one action removes from a group.

    A step that is a multiple of the product of a program's other tile factors leaves its loop
    structure
    as it is (Kim et al., ECCV 2022, section 3.3). With several producers the published code takes
    the
    maximum, which breaks the other tilings; this takes the least common multiple. Where that passes
    a
    quarter of the group, the costliest producer alone decides, and where that does too, the step is
    halved
    until it does not: half a vector is still filled evenly. A step is at least 1/32 of the group,
    so that
    episodes stay short.

    Args:
        channels: width of the group in the dense network.
        producers: of each task that writes it, the channels that its program must keep together
            (`channel_granularity`) and its total latency in seconds.

    Returns:
        A step of 1 to `channels` channels.
    """
    inner = list(producers)
    step = math.lcm(*(s for s, _ in inner)) if inner else 1
    if step > channels / 4 and inner:
        step = max(inner, key=lambda item: item[1])[0]
        while step > channels / 4 and step % 2 == 0:
            step //= 2
    at_least = math.ceil(channels / 32)
    return min(step * math.ceil(at_least / step), channels)


def width_after_steps(width: int, step: int, count: int) -> int:
    """The width that `count` legal steps lead to:

    down to the next multiple of `step`, then `count - 1` more.
    """
    return (-(-width // step) - count) * step
