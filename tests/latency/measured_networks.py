"""Toy networks with measured tasks, on a device that is a formula."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.predictor_study.leave_one_network_out import MeasuredNetwork
from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Group, Network, Plan
from cprune_rl.latency.task_features import LatencySample
from cprune_rl.testing import AnalyticLatency, toy_network

DEVICE = replace(
    UNKNOWN_DEVICE,
    conv3x3_gflops=2.0,
    conv1x1_gflops=2.0,
    bandwidth_gb_s=20.0,
    launch_ns=1000.0,
    vector_lanes=8,
)
WIDTHS = {"a": (16, 32, 32), "b": (24, 48, 64), "c": (64, 64, 40), "d": (20, 56, 96)}


def measured_networks(noise: float = 0.0) -> list[MeasuredNetwork]:
    """Four networks with the tasks of random plans measured, off by log-normal noise."""
    return [
        _measured(toy_network(widths, name), noise, seed)
        for seed, (name, widths) in enumerate(WIDTHS.items())
    ]


def samples(of: Sequence[MeasuredNetwork]) -> list[LatencySample]:
    return [sample for measured in of for sample in measured.samples()]


def _measured(network: Network, noise: float, seed: int) -> MeasuredNetwork:
    rng = np.random.default_rng(seed)
    source = AnalyticLatency(network)
    costs = {}
    for _ in range(40):
        plan = Plan(tuple(_width(group, rng) for group in network.groups))
        for workload, cost in zip(network.workloads(plan), source.measure(plan), strict=True):
            noisy = replace(cost, latency_s=cost.latency_s * math.exp(noise * rng.normal()))
            costs.setdefault(workload.key, (workload, noisy))
    n_groups = len(network.groups)
    return MeasuredNetwork(
        network=network,
        costs=list(costs.values()),
        loss_model=LossModel(np.full(n_groups, 0.05), np.full(n_groups, 2.0)),
        device=DEVICE,
        device_name="formula",
    )


def _width(group: Group, rng: np.random.Generator) -> int:
    """A multiple of four of at least half of the group."""
    least = max(group.minimum, group.channels // 2)
    return 4 * int(rng.integers(least // 4, group.channels // 4 + 1))
