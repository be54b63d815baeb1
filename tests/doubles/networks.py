"""Networks of tests, and plans that prune all groups alike."""

from __future__ import annotations

import functools

import torch
from torch import nn

from cprune_rl.core.network import Plan
from cprune_rl.models.registry import build_model
from cprune_rl.models.zoo import MODELS
from cprune_rl.pruning.groups import CoupledGroups, find_groups

__all__ = ["packaged_network", "small_network", "uniform_plan"]


@functools.cache
def packaged_network(name: str) -> tuple[nn.Module, CoupledGroups]:
    """Gives a packaged network and its groups; shared between tests, so leave it as it is."""
    model = build_model(name, 10).eval()
    return model, find_groups(model, torch.zeros(MODELS[name].input_shape))


def small_network() -> nn.Module:
    """Makes a classifier of ten classes that trains in a moment; the same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def uniform_plan(coupled: CoupledGroups, ratio: float) -> Plan:
    """Keeps the same share of each group, and at least its minimum."""
    return Plan(tuple(max(g.minimum, round(g.channels * ratio)) for g in coupled.groups))
