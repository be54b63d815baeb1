"""What is estimated for a plan is what surgery makes of it: the tasks are the same."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from cprune_rl.compiler.devices.target import make_target
from cprune_rl.compiler.export.describe import describe_network
from cprune_rl.compiler.export.exported_network import ExportedNetwork
from cprune_rl.core.network import Network, Plan
from cprune_rl.models.registry import build_model
from cprune_rl.pruning.groups import find_groups
from cprune_rl.pruning.surgery import prune
from tests.doubles.branching_networks import BRANCHING_NETWORKS

EXAMPLE = torch.zeros(1, 3, 32, 32)
PACKAGED = ["resnet8-w8", "mobilenetv2-small", "vgg-small"]


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name in BRANCHING_NETWORKS:
        return BRANCHING_NETWORKS[name]().eval()
    return build_model(name, 5).eval()


@pytest.mark.parametrize("name", [*BRANCHING_NETWORKS, *PACKAGED])
def test_the_tasks_of_a_plan_are_those_of_the_pruned_network(name: str) -> None:
    model = made(name)
    coupled = find_groups(model, EXAMPLE)
    target = make_target(1)
    exported = ExportedNetwork.export(model, EXAMPLE, coupled.axes, target, coupled.written)
    network = describe_network(name, exported, coupled.groups, with_schemes=False)
    rng = random.Random(name)
    for lowest in (True, False):
        widths = [
            g.minimum if lowest else rng.randint(g.minimum, g.channels) for g in network.groups
        ]
        plan = Plan(tuple(widths))
        pruned = prune(model, coupled, plan)
        assert pruned(EXAMPLE).shape == (1, 5)
        fresh = described(pruned)
        assert [w.key for w in network.workloads(plan)] == [
            w.key for w in fresh.workloads(fresh.dense)
        ]
        assert network.macs(plan) == fresh.macs(fresh.dense)


def described(model: nn.Module) -> Network:
    exported = ExportedNetwork.export(model, EXAMPLE, {}, make_target(1))
    return describe_network("pruned", exported, (), with_schemes=False)
