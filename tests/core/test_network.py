"""Networks, plans and the tasks that they come to."""

import json
from dataclasses import replace

import pytest

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.network_json import network_from_json, network_to_json
from cprune_rl.core.workload import Extent
from cprune_rl.errors import PlanError
from cprune_rl.testing import toy_network


def with_kernels(network: Network) -> Network:
    """The same, with another template for whole kernels of its second layer."""
    pruned = network.subgraphs[1].block_sparse
    assert pruned is not None
    of_kernels = replace(pruned.template, text="winograd|1x{0}x8x8,{1}x{0}x3x3")
    second = replace(network.subgraphs[1], block_sparse=replace(pruned, of_kernels=of_kernels))
    return replace(network, subgraphs=(network.subgraphs[0], second, *network.subgraphs[2:]))


def test_an_extent_is_linear_in_the_widths() -> None:
    assert Extent(3, (("a", 2), ("b", 16))).at({"a": 5, "b": 1}) == 3 + 10 + 16


@pytest.mark.parametrize("network", [toy_network(), with_kernels(toy_network())])
def test_a_network_survives_json(network: Network) -> None:
    assert network_from_json(json.loads(json.dumps(network_to_json(network)))) == network


@pytest.mark.parametrize("widths", [(16, 32), (16, 32, 33), (0, 32, 32)])
def test_a_plan_that_does_not_fit_is_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(PlanError, match="toy"):
        toy_network().workloads(Plan(widths))


@pytest.mark.parametrize(
    ("layer", "scheme", "message"),
    [
        ("conv0", "block(8,0.5)", "'conv0' of toy cannot be pruned by a scheme: conv1, conv2 can"),
        ("nowhere", "block(8,0.5)", "'nowhere'"),
        ("conv1", "half of it", "is no scheme"),
    ],
)
def test_a_scheme_that_does_not_fit_is_refused(layer: str, scheme: str, message: str) -> None:
    network = toy_network()
    with pytest.raises(PlanError, match=message):
        network.workloads(replace(network.dense, schemes=((layer, scheme),)))


def test_patterns_and_kernels_need_3x3_kernels() -> None:
    network = toy_network()
    pruned = network.subgraphs[1].block_sparse
    assert pruned is not None
    flat = replace(network.subgraphs[1], block_sparse=replace(pruned, entries=1))
    network = replace(network, subgraphs=(network.subgraphs[0], flat, *network.subgraphs[2:]))
    network.workloads(replace(network.dense, schemes=(("conv1", "block(8,0.5)"),)))
    with pytest.raises(PlanError, match="no 3x3 kernels"):
        network.workloads(replace(network.dense, schemes=(("conv1", "pattern(4,0.4)"),)))


def test_plans_with_equal_schemes_are_equal() -> None:
    one, other = ("conv1", "block(8,0.5)"), ("conv2", "block(4,0.25)")
    assert Plan((1,), (one, other)) == Plan((1,), (other, one))


def test_a_scheme_changes_the_task_of_its_layer_alone() -> None:
    network = with_kernels(toy_network())
    dense = network.workloads(network.dense)
    pruned = network.workloads(replace(network.dense, schemes=(("conv1", "kernel(8,0.25)"),)))
    assert [a == b for a, b in zip(dense, pruned, strict=True)] == [True, False, True, True]
    assert (dense[1].is_block_sparse, dense[1].block) == (False, 1)
    assert (pruned[1].is_block_sparse, pruned[1].block) == (True, 8)
    assert pruned[1].key.startswith("winograd"), "whole kernels are computed in a way of their own"
    assert pruned[1].macs == pytest.approx(dense[1].macs / 4)


def test_subgraphs_are_found_by_the_groups_that_shape_them() -> None:
    network = toy_network()
    assert network.touched_groups == ((0,), (0, 1), (1, 2), (2,))
    assert network.written_groups == ((0,), (1,), (2,), ())
    assert network.shaped_by((1,)) == (1, 2)
    assert network.shaped_by((0, 2)) == (0, 1, 2, 3)


def test_macs_follow_the_widths() -> None:
    network = toy_network((16, 32, 32))
    dense = 9 * 64 * (3 * 16 + 16 * 32 + 32 * 32) + 32 * 10
    assert network.macs(network.dense) == dense
    assert network.macs(Plan((8, 32, 32))) == dense - 9 * 64 * (3 * 8 + 8 * 32)


def test_a_uniform_plan_keeps_the_minimum_of_each_group() -> None:
    network = toy_network((16, 32, 32))
    assert network.uniform(0.5) == Plan((8, 16, 16))
    assert network.uniform(0.0) == Plan(tuple(group.minimum for group in network.groups))
