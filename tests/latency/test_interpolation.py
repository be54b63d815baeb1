"""Interpolation between measured tasks, and what a source makes of it."""

import math
from dataclasses import replace

import pytest

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.workload import Workload
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.testing import AnalyticLatency, FailingLatency, toy_network


def measured_tasks(network: Network, *plans: Plan) -> list[tuple[Workload, TaskCost]]:
    source = AnalyticLatency(network)
    return [
        pair
        for plan in plans
        for pair in zip(network.workloads(plan), source.measure(plan), strict=True)
    ]


def test_measured_tasks_come_back_and_others_are_interpolated() -> None:
    network = toy_network((64, 64, 64))
    plans = [network.uniform(ratio) for ratio in (1.0, 0.75, 0.5, 0.25)]
    interpolator = LatencyInterpolator(measured_tasks(network, *plans))
    source = AnalyticLatency(network)
    dense = network.workloads(network.dense)
    assert interpolator.predict(dense) == source.measure(network.dense)
    between = network.uniform(0.625)
    predicted = interpolator.predict(network.workloads(between))
    for cost, true in zip(predicted, source.measure(between), strict=True):
        assert not cost.is_measured
        assert cost.latency_s == pytest.approx(true.latency_s, rel=0.15)


def test_a_failed_task_teaches_nothing() -> None:
    network = toy_network()
    workload = network.workloads(network.dense)[0]
    interpolator = LatencyInterpolator([(workload, TaskCost(latency_s=math.inf, error="crashed"))])
    assert interpolator.measured_tasks() == []
    assert math.isinf(interpolator.predict([workload])[0].latency_s)


def test_a_task_that_is_measured_again_replaces_its_cost_and_what_was_interpolated_from_it() -> (
    None
):
    network = toy_network()
    interpolator = LatencyInterpolator(measured_tasks(network, network.dense))
    narrow = network.workloads(network.uniform(0.5))
    before = interpolator.predict(narrow)
    workload, cost = interpolator.measured_tasks()[1]
    slower = replace(cost, latency_s=2 * cost.latency_s)
    interpolator.learn(workload, slower)
    assert interpolator.predict([workload]) == [slower]
    assert interpolator.predict(narrow) != before
    assert len(interpolator.measured_tasks()) == len(network.subgraphs)


def test_a_task_that_failed_does_not_look_fast_afterwards() -> None:
    network = toy_network()
    interpolator = LatencyInterpolator(measured_tasks(network, network.dense))
    latency = InterpolatedLatency(network, interpolator, FailingLatency(network))
    narrow = network.uniform(0.5)
    workloads = network.workloads(narrow)
    assert all(math.isfinite(c.latency_s) for c in latency.predict(workloads))
    latency.measure(narrow)
    assert all(c.error == "crashed" for c in latency.predict(workloads))


def test_a_prediction_becomes_a_measurement_once_the_task_is_measured() -> None:
    network = toy_network()
    interpolator = LatencyInterpolator(measured_tasks(network, network.dense))
    latency = InterpolatedLatency(network, interpolator, AnalyticLatency(network))
    narrow = network.uniform(0.5)
    workloads = network.workloads(narrow)
    assert not any(c.is_measured for c in latency.predict(workloads)[:3])
    measured = latency.measure(narrow)
    assert latency.predict(workloads) == measured
    assert all(c.is_measured for c in measured)


def test_a_density_that_was_not_timed_is_estimated_between_those_that_were() -> None:
    network = toy_network()
    timed = [network.dense, pruned(network, 0.5), pruned(network, 0.125)]
    interpolator = LatencyInterpolator(measured_tasks(network, *timed))
    workload = network.workloads(pruned(network, 0.25))[1]
    (predicted,) = interpolator.predict([workload])
    assert not predicted.is_measured
    (true,) = AnalyticLatency(network).predict([workload])
    assert predicted.latency_s == pytest.approx(true.latency_s, rel=0.1)


def pruned(network: Network, density: float) -> Plan:
    return Plan(network.dense.widths, (("conv1", f"block(8,{density})"),))
