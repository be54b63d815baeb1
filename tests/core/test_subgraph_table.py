"""The subgraph table and its legal steps."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cprune_rl.core.legal_steps import (
    channel_granularity,
    legal_step,
    legal_widths,
    width_after_steps,
)
from cprune_rl.core.network import Group, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.core.workload import Extent
from cprune_rl.testing import AnalyticLatency, toy_network

factors = st.lists(st.integers(1, 8), min_size=2, max_size=4).map(tuple)


def test_the_step_keeps_every_other_tile_factor() -> None:
    assert legal_step(64, [(channel_granularity((2, 2, 1, 16)), 1.0)]) == 4


def test_two_producers_step_by_the_least_common_multiple_not_the_maximum() -> None:
    # 48 = 12 x 4 steps by 4, 48 = 8 x 6 steps by 6. The published maximum, 6, breaks the first
    # schedule's tiling.
    assert legal_step(48, [(4, 1.0), (6, 1.0)]) == 12


def test_the_costliest_producer_decides_where_the_multiple_is_too_large() -> None:
    assert legal_step(48, [(6, 1.0), (5, 2.0)]) == 5  # lcm(6, 5) = 30 passes 48 / 4


def test_packed_channels_go_by_whole_vectors_where_the_group_is_wide_enough() -> None:
    assert channel_granularity((2, 1, 2, 1), lanes=16) == 32
    assert legal_step(64, [(channel_granularity((1, 1, 4, 1), lanes=16), 1.0)]) == 16
    # One vector holds the whole group: a quarter of it goes at a time.
    assert legal_step(16, [(16, 1.0)]) == 4


def test_a_step_counts_the_channels_that_go_together() -> None:
    network = toy_network()
    written = network.subgraphs[1].channels_out
    ((name, _),) = written.terms
    of_four = replace(
        network,
        subgraphs=tuple(
            replace(s, channels_out=Extent(0, ((name, 4),))) if s.channels_out == written else s
            for s in network.subgraphs
        ),
    )
    costs = [TaskCost(latency_s=1e-3, tile_factors=(8, 16))] * len(network.subgraphs)
    tables = [SubgraphTable.from_costs(n, n.dense, costs) for n in (network, of_four)]
    group = network.group_index[name]
    assert [table.steps[group] for table in tables] == [8, 2], "8 channels are 2 units of 4"


def test_a_shared_task_counts_the_channels_of_each_group_that_it_writes() -> None:
    network = toy_network((32, 32, 32))
    shared = network.subgraphs[1].template
    subgraphs = [
        replace(s, template=shared, channels_out=Extent(0, ((s.name, 4),)))
        if s.name in ("conv1", "conv2")
        else s
        for s in network.subgraphs
    ]
    network = replace(network, subgraphs=tuple(subgraphs))
    table = SubgraphTable.from_costs(
        network, network.dense, [TaskCost(latency_s=1e-3, tile_factors=(8, 16))] * len(subgraphs)
    )
    assert [row.weight for row in table.rows] == [1, 2, 1]
    assert table.steps[1:] == (2, 2)


def test_a_step_is_never_less_than_a_thirty_second_of_the_group() -> None:
    assert legal_step(512, [(1, 1.0)]) == 16
    assert legal_step(512, []) == 16


@given(st.integers(1, 512), st.lists(st.tuples(st.integers(1, 512), st.floats(0, 1)), max_size=4))
def test_a_step_fits_the_group(channels: int, producers: list[tuple[int, float]]) -> None:
    step = legal_step(channels, producers)
    assert math.ceil(channels / 32) <= step <= channels


@given(st.integers(1, 512), st.integers(1, 64), st.sampled_from([1, 2, 4]))
def test_a_narrower_width_is_a_multiple_of_the_step_below(
    width: int, step: int, count: int
) -> None:
    narrower = width_after_steps(width, step, count)
    assert narrower < width
    assert narrower % step == 0
    assert width - narrower <= count * step


def test_equal_workloads_share_a_row_and_split_when_their_widths_part() -> None:
    network = toy_network((16, 16, 16, 16))
    source = AnalyticLatency(network)

    def table(plan: Plan) -> SubgraphTable:
        return SubgraphTable.from_costs(network, plan, source.measure(plan))

    dense = table(network.dense)
    assert [r.weight for r in dense.rows] == [1, 2, 1, 1]  # conv1 and conv3 are the same task
    assert dense.rows[1].groups == (1, 3)
    split = table(Plan((16, 16, 16, 8)))
    assert [r.weight for r in split.rows] == [1, 1, 1, 1, 1]
    assert dense.latency_s == pytest.approx(sum(c.latency_s for c in source.measure(network.dense)))


@pytest.mark.parametrize(
    ("channels", "minimum", "step", "expected"),
    [(64, 13, 16, (16, 32, 48, 64)), (10, 4, 4, (4, 8, 10)), (5, 3, 5, (5,))],
)
def test_legal_widths_begin_at_the_minimum_and_end_at_the_dense_width(
    channels: int, minimum: int, step: int, expected: tuple[int, ...]
) -> None:
    group = Group(name="a", channels=channels, minimum=minimum, layers=())
    assert legal_widths(group, step) == expected
