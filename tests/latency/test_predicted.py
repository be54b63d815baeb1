"""A source that predicts: the order measured, predicted, measured now."""

import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.core.device_descriptor import DeviceDescriptor
from cprune_rl.core.network import Network
from cprune_rl.core.protocols import LatencySource
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.workload import Workload
from cprune_rl.cost_cache import SqlStore
from cprune_rl.errors import ConfigError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.predicted import PredictedLatency
from cprune_rl.latency.predictor import LatencyPredictor, Prediction
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.testing import AnalyticLatency, toy_network, toy_problem
from tests.latency.measured_networks import DEVICE


class FixedWidthPredictor(LatencyPredictor):
    """A predictor whose intervals have a given half-width, and that counts its predictions."""

    def __init__(self, inner: LatencyPredictor, half_width: float) -> None:
        super().__init__(
            learner=inner._learner,
            error=inner._error,
            stretch=inner._stretch,
            coverage=inner.coverage,
        )
        self.half_width = half_width
        self.n_predicted = 0

    def predict(self, workloads: Sequence[Workload], device: DeviceDescriptor) -> list[Prediction]:
        self.n_predicted += len(workloads)
        half = self.half_width
        return [
            replace(p, low_s=p.latency_s * (1 - half), high_s=p.latency_s * (1 + half))
            for p in super().predict(workloads, device)
        ]


def interpolated(network: Network, source: LatencySource) -> InterpolatedLatency:
    return InterpolatedLatency(network, LatencyInterpolator(), source)


def predicted_latency(
    network: Network, predictor: LatencyPredictor, max_half_width: float = 0.2
) -> PredictedLatency:
    source = interpolated(network, AnalyticLatency(network))
    return PredictedLatency(
        network, source, predictor=predictor, device=DEVICE, max_half_width=max_half_width
    )


def test_a_task_that_is_predicted_narrowly_is_not_measured(predictor: LatencyPredictor) -> None:
    network = toy_network()
    dense = network.workloads(network.dense)
    narrow = FixedWidthPredictor(predictor, 0.1)
    latency = predicted_latency(network, narrow)
    costs = latency.measure(network.dense)
    assert latency.spending.fresh_trials == 0
    for cost in costs:
        assert not cost.is_measured
        assert cost.interval_s is not None
        assert cost.interval_s[0] < cost.latency_s < cost.interval_s[1]
    assert latency.measure(network.dense) == costs == latency.predict(dense)
    assert narrow.n_predicted == len({w.key for w in dense}), "one workload is predicted once"


def test_a_task_that_is_predicted_widely_is_measured_and_then_known(
    predictor: LatencyPredictor,
) -> None:
    network = toy_network()
    dense = network.workloads(network.dense)
    wide = FixedWidthPredictor(predictor, 0.5)
    latency = predicted_latency(network, wide)
    assert not any(c.is_measured for c in latency.predict(dense))
    costs = latency.measure(network.dense)
    assert latency.spending.fresh_trials == 4
    assert costs == AnalyticLatency(network).measure(network.dense)
    wide.half_width = 0.0
    assert latency.measure(network.dense) == latency.predict(dense) == costs, (
        "what was measured is never predicted"
    )
    narrowed = latency.measure(network.uniform(0.5))
    assert latency.spending.fresh_trials == 4
    assert not any(c.is_measured for c in narrowed)


def test_no_plan_is_measured_for_the_sake_of_a_task_that_hardly_counts(
    predictor: LatencyPredictor,
) -> None:
    network = toy_network((64, 64, 64))
    source = interpolated(network, AnalyticLatency(network))
    source.measure(network.dense)
    wide = FixedWidthPredictor(predictor, 1.0)
    latency = PredictedLatency(network, source, predictor=wide, device=DEVICE, max_half_width=0.5)
    costs = latency.predict(network.workloads(network.uniform(0.5)))
    assert [c.interval_s is not None for c in costs] == [False, False, False, True], (
        "the linear layer is a hundredth of this network"
    )


def test_a_source_that_believes_nothing_is_a_clear_error(predictor: LatencyPredictor) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        predicted_latency(toy_network(), predictor, max_half_width=0.0)


def test_a_search_says_how_much_of_each_estimate_was_predicted(predictor: LatencyPredictor) -> None:
    problem = toy_problem()
    assert {s.predicted_share for s in CPrune().search(problem, Budget()).history} == {0.0}
    latency = PredictedLatency(
        problem.network,
        interpolated(problem.network, problem.latency),
        predictor=FixedWidthPredictor(predictor, 0.1),
        device=DEVICE,
        max_half_width=0.2,
    )
    result = CPrune().search(replace(problem, latency=latency), Budget())
    assert {s.predicted_share for s in result.history} == {1.0}
    assert result.cost["fresh_trials"] == 0
    assert SearchResult.from_json(result.to_json()) == result


@pytest.mark.parametrize(
    ("predict", "message"), [(0.0, ""), (0.2, "Every task is measured: 0 measured tasks")]
)
def test_a_run_predicts_only_where_it_is_asked_to_and_has_learnt_enough(
    predict: float, message: str
) -> None:
    from cprune_rl.compiler.tuning.budget import TuningSettings
    from cprune_rl.pipeline.backends.tvm import TvmSettings, learn_latencies
    from cprune_rl.pipeline.progress import ProgressLog

    output = io.StringIO()
    log = ProgressLog(Console(file=output, width=200))
    store = SqlStore("sqlite://")
    settings = TvmSettings(
        tuning=TuningSettings(),
        sweep=(),
        scheme_sweep=(),
        widest_interval=predict,
        timing_rounds=1,
        seed=0,
    )
    assert learn_latencies(settings, store, "c", DEVICE, log) is None
    assert (message in output.getvalue()) if message else not output.getvalue()
