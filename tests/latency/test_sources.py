"""Every source of latencies passes the conformance suite; the tuner's is in tests/compiler."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import LatencySource, TaskCost, least_trials_needed
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.workload import Workload
from cprune_rl.envs.problem import Problem
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.predicted import PredictedLatency
from cprune_rl.latency.predictor import LatencyPredictor
from cprune_rl.latency.recorded import RecordedLatency
from cprune_rl.latency.sources import InterpolatedLatency, LatencyNoise, OverriddenLatency
from cprune_rl.testing import AnalyticLatency, check_latency_source, toy_network, toy_problem
from tests.latency.measured_networks import DEVICE


def interpolator(network: Network) -> LatencyInterpolator:
    """Of the dense network's tasks."""
    costs = AnalyticLatency(network).measure(network.dense)
    return LatencyInterpolator(zip(network.workloads(network.dense), costs, strict=True))


def twice(workload: Workload, cost: TaskCost) -> TaskCost:
    return replace(cost, latency_s=2 * cost.latency_s)


SOURCES: dict[str, Callable[[Network], LatencySource]] = {
    "analytic": AnalyticLatency,
    "recorded": lambda n: RecordedLatency(n, interpolator(n)),
    "recorded with noise": lambda n: RecordedLatency(n, interpolator(n), noise_seed=3),
    "recorded and charged": lambda n: RecordedLatency(n, interpolator(n), trials_each=8),
    "interpolated": lambda n: InterpolatedLatency(n, LatencyInterpolator(), AnalyticLatency(n)),
    "interpolated of a recording": lambda n: InterpolatedLatency(
        n, LatencyInterpolator(), RecordedLatency(n, interpolator(n), trials_each=8)
    ),
    "interpolated alone": lambda n: InterpolatedLatency(n, interpolator(n)),
    "interpolated with noise": lambda n: InterpolatedLatency(
        n, interpolator(n), noise=LatencyNoise(seed=3, sigma=0.1)
    ),
    "overridden": lambda n: OverriddenLatency(n, AnalyticLatency(n), twice, is_measuring=True),
    "overridden predictions": lambda n: OverriddenLatency(n, AnalyticLatency(n), twice),
}


@pytest.mark.parametrize("make", SOURCES.values(), ids=SOURCES.keys())
def test_a_source_passes_the_conformance_suite(make: Callable[[Network], LatencySource]) -> None:
    network = toy_network((16, 16, 32))
    check_latency_source(make(network), network)


@pytest.mark.parametrize("max_half_width", [1e-6, 1e6])
def test_a_predicting_source_passes_the_conformance_suite(
    predictor: LatencyPredictor, max_half_width: float
) -> None:
    network = toy_network()
    source = InterpolatedLatency(network, LatencyInterpolator(), AnalyticLatency(network))
    latency = PredictedLatency(
        network, source, predictor=predictor, device=DEVICE, max_half_width=max_half_width
    )
    check_latency_source(latency, network)


class SourceChecker:
    """A searcher that checks the source of latencies it is given."""

    name = "source-checker"

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        check_latency_source(problem.latency, problem.network)
        return SearchResult(method=self.name, accepted=(), history=(), cost={})


def test_a_budgeted_source_passes_the_conformance_suite() -> None:
    _, is_ended = search_within(SourceChecker(), toy_problem(), Budget(fresh_trials=100))
    assert not is_ended


def test_noise_depends_on_the_task_and_the_seed_alone() -> None:
    network = toy_network()

    def measured(seed: int) -> list[TaskCost]:
        noise = LatencyNoise(seed=seed, sigma=0.1)
        latency = InterpolatedLatency(network, interpolator(network), noise=noise)
        latency.measure(network.uniform(0.5))
        return latency.measure(network.dense)

    assert measured(1) == measured(1) != measured(2)
    assert InterpolatedLatency(network, interpolator(network)).measure(network.dense) != measured(1)


def test_overridden_predictions_spend_nothing_and_measurements_spend_the_sources() -> None:
    network = toy_network()
    for is_measuring in (False, True):
        source = AnalyticLatency(network)
        latency = OverriddenLatency(network, source, twice, is_measuring=is_measuring)
        costs = latency.measure(network.dense)
        assert [c.latency_s for c in costs] == [
            2 * c.latency_s for c in source.predict(network.workloads(network.dense))
        ]
        assert (latency.spending.fresh_trials > 0) == is_measuring


def test_a_source_that_does_not_say_its_trials_needs_one_for_each_unmeasured_task() -> None:
    network = toy_network()
    device = OverriddenLatency(network, RecordedLatency(network, interpolator(network)))
    assert least_trials_needed(device, network, network.dense) == 0
    assert least_trials_needed(device, network, network.uniform(0.5)) == 4
