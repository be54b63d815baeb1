"""The subgraph table: what the tasks of a plan cost, and by which steps their groups may narrow.

It is CPrune's table C (Kim et al., ECCV 2022, figure 3), joined from a network and a source of
latencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cprune_rl.core.legal_steps import channel_granularity, legal_step, legal_widths
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload

__all__ = ["SubgraphTable", "TaskRow"]


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
