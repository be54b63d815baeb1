"""The predictor of unseen shapes:

what it promises on synthetic devices, and the order measured, predicted, measured.
"""

import io
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.predictor_study.leave_one_network_out import (
    BAR,
    Judgement,
    MeasuredNetwork,
    leave_one_network_out,
)
from benchmarks.predictor_study.plan_choice_regret import measured_plans
from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.core.device_descriptor import UNKNOWN_DEVICE, DeviceDescriptor
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import Measurement, TaskCost
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.workload import OperatorKind, Workload
from cprune_rl.cost_cache import SqlStore, StoredTrial
from cprune_rl.errors import ConfigError, DataError
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.predicted import PredictedLatency
from cprune_rl.latency.predictor import LatencyPredictor
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.latency.task_features import (
    FEATURES,
    Sample,
    bound_s,
    features,
    kind,
    stored_samples,
)
from cprune_rl.testing import AnalyticLatency, toy_network, toy_problem

DEVICE = replace(
    UNKNOWN_DEVICE,
    conv3x3_gflops=2.0,
    conv1x1_gflops=2.0,
    bandwidth_gb_s=20.0,
    launch_ns=1000.0,
    vector_lanes=8,
)
WIDTHS = {"a": (16, 32, 32), "b": (24, 48, 64), "c": (64, 64, 40), "d": (20, 56, 96)}


def measured(
    network: Network, noise: float = 0.0, seed: int = 0, n_plans: int = 40
) -> MeasuredNetwork:
    """A network with the tasks of random plans measured."""
    rng = np.random.default_rng(seed)
    source, known = AnalyticLatency(network), {}
    for _ in range(n_plans):
        plan = Plan(
            tuple(
                int(rng.integers(max(g.minimum, g.channels // 2) // 4, g.channels // 4 + 1)) * 4
                for g in network.groups
            )
        )
        for workload, cost in zip(network.workloads(plan), source.measure(plan), strict=True):
            known.setdefault(
                workload.key,
                (
                    workload,
                    replace(cost, latency_s=cost.latency_s * math.exp(noise * rng.normal())),
                ),
            )
    loss_model = LossModel(np.full(len(network.groups), 0.05), np.full(len(network.groups), 2.0))
    return MeasuredNetwork(network, list(known.values()), loss_model, DEVICE, "formula")


def networks(noise: float = 0.0) -> list[MeasuredNetwork]:
    return [
        measured(toy_network(widths, name), noise, seed)
        for seed, (name, widths) in enumerate(WIDTHS.items())
    ]


def samples(of: Sequence[MeasuredNetwork]) -> list[Sample]:
    return [s for m in of for s in m.samples()]


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    return LatencyPredictor.fit(samples(networks()[1:]))


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    return leave_one_network_out(networks(noise=0.03))


def test_equal_samples_in_any_order_and_equal_seeds_give_equal_predictions(
    predictor: LatencyPredictor,
) -> None:
    again = LatencyPredictor.fit(samples(networks()[:0:-1]))
    asked = [w for w, _ in networks()[0].costs]
    assert again.predict(asked, DEVICE) == predictor.predict(asked, DEVICE)
    assert predictor.predict([], DEVICE) == []


def test_an_interval_holds_its_prediction_and_more_work_takes_longer(
    predictor: LatencyPredictor,
) -> None:
    network = toy_network((80, 80, 80), "unseen")
    predictions = [
        predictor.predict(network.workloads(network.uniform(ratio)), DEVICE)[1]
        for ratio in (0.3, 0.6, 1.0)
    ]
    assert all(p.low_s < p.latency_s < p.high_s and p.half_width > 0 for p in predictions)
    assert sorted(p.latency_s for p in predictions) == [p.latency_s for p in predictions]


def test_on_a_network_that_was_left_out_errors_are_small_and_intervals_hold(
    judgements: list[Judgement],
) -> None:
    assert [j.network for j in judgements] == list(WIDTHS)
    assert np.median([j.median_error for j in judgements]) < 0.1
    assert np.mean([j.coverage for j in judgements]) >= 0.85
    assert min(j.rank_correlation for j in judgements) > 0.9


def test_what_is_known_is_not_judged() -> None:
    known = networks()
    (one,) = (j for j in leave_one_network_out(known[:3], is_dense_known=True) if j.network == "a")
    dense = {w.key for w in known[0].network.workloads(known[0].network.dense)}
    elsewhere = {w.key for m in known[1:3] for w, _ in m.costs}
    assert one.n_tasks == len([w for w, _ in known[0].costs if w.key not in dense | elsewhere])


def test_decisions_by_prediction_beat_chance_and_the_bar_can_hold(
    judgements: list[Judgement],
) -> None:
    decisions = [j.decisions for j in judgements if j.decisions is not None]
    assert len(decisions) == len(judgements)
    assert all(d.regret <= d.random_regret for d in decisions)
    assert BAR.holds(judgements)
    assert not BAR.holds([replace(j, coverage=0.5) for j in judgements])
    assert not BAR.holds([replace(j, median_error=0.3) for j in judgements])
    assert not BAR.holds([replace(j, decisions=None) for j in judgements]), (
        "decisions that were not judged reach no bar"
    )
    assert judgements[0].to_json()["regret"] == pytest.approx(decisions[0].regret, abs=1e-4)


def test_plans_for_judging_are_made_of_measured_tasks_alone() -> None:
    one = networks()[0]
    known = [w for w, _ in one.costs]
    plans = measured_plans(one.network, known, 30, np.random.default_rng(0))
    assert len(set(plans)) == len(plans) > 10
    assert {w.key for p in plans for w in one.network.workloads(p)} <= {w.key for w in known}
    assert measured_plans(one.network, known[:1], 30, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("of", "message"), [([], "0 measured tasks"), (networks()[:1], "1 networks")]
)
def test_too_little_to_learn_from_is_a_clear_error(of: list[MeasuredNetwork], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LatencyPredictor.fit(samples(of))


def test_a_failed_task_teaches_nothing_and_two_networks_judge_nothing() -> None:
    failed = [
        replace(s, cost=TaskCost(latency_s=math.inf, error="crashed")) for s in samples(networks())
    ]
    with pytest.raises(DataError, match="0 measured tasks"):
        LatencyPredictor.fit(failed)
    with pytest.raises(DataError, match="takes three, found a, b"):
        leave_one_network_out(networks()[:2])
    with pytest.raises(DataError, match="coverage"):
        LatencyPredictor.fit(samples(networks()), coverage=90)


class Believing(LatencyPredictor):
    """A predictor whose intervals are as wide as it is told, and that counts what it is asked."""

    def __init__(self, inner: LatencyPredictor, half: float) -> None:
        super().__init__(inner._learner, inner._error, inner._stretch, inner.coverage)
        self.half, self.n_asked = half, 0

    def predict(self, workloads: Sequence[Workload], device: DeviceDescriptor):  # type: ignore[no-untyped-def]
        self.n_asked += len(workloads)
        return [
            replace(p, low_s=p.latency_s * (1 - self.half), high_s=p.latency_s * (1 + self.half))
            for p in super().predict(workloads, device)
        ]


def predicted_costs(
    predictor: LatencyPredictor, half: float, widest: float = 0.2
) -> tuple[Network, Believing, PredictedLatency]:
    network, believing = toy_network(), Believing(predictor, half)
    return (
        network,
        believing,
        PredictedLatency(
            network,
            InterpolatedLatency(network, LatencyInterpolator(), AnalyticLatency(network)),
            believing,
            DEVICE,
            widest,
        ),
    )


def test_a_task_that_is_predicted_narrowly_is_not_measured(predictor: LatencyPredictor) -> None:
    network, believing, costs = predicted_costs(predictor, half=0.1)
    first = costs.measure(network.dense)
    assert costs.spending.fresh_trials == 0
    assert all(
        not c.is_measured
        and c.interval_s is not None
        and c.interval_s[0] < c.latency_s < c.interval_s[1]
        for c in first
    )
    assert costs.measure(network.dense) == first == costs.predict(network.workloads(network.dense))
    assert believing.n_asked == len({w.key for w in network.workloads(network.dense)}), (
        "one workload is predicted once"
    )


def test_a_task_that_is_predicted_widely_is_measured_and_then_known(
    predictor: LatencyPredictor,
) -> None:
    network, believing, costs = predicted_costs(predictor, half=0.5)
    assert not any(c.is_measured for c in costs.predict(network.workloads(network.dense)))
    first = costs.measure(network.dense)
    assert costs.spending.fresh_trials == 4
    assert first == AnalyticLatency(network).measure(network.dense)
    believing.half = 0.0
    assert (
        costs.measure(network.dense) == costs.predict(network.workloads(network.dense)) == first
    ), "what was measured is never predicted"
    narrowed = costs.measure(network.uniform(0.5))
    assert costs.spending.fresh_trials == 4
    assert not any(c.is_measured for c in narrowed)


def test_no_plan_is_measured_for_the_sake_of_a_task_that_hardly_counts(
    predictor: LatencyPredictor,
) -> None:
    network = toy_network((64, 64, 64))
    source = InterpolatedLatency(network, LatencyInterpolator(), AnalyticLatency(network))
    source.measure(network.dense)
    costs = PredictedLatency(network, source, Believing(predictor, 1.0), DEVICE, 0.5)
    found = costs.predict(network.workloads(network.uniform(0.5)))
    assert [c.interval_s is not None for c in found] == [False, False, False, True], (
        "the linear layer is a hundredth of this network"
    )


def test_a_source_that_believes_nothing_is_a_clear_error(predictor: LatencyPredictor) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        predicted_costs(predictor, half=0.1, widest=0.0)


def test_a_search_says_how_much_of_each_estimate_was_predicted(predictor: LatencyPredictor) -> None:
    problem = toy_problem()
    assert {s.predicted_share for s in CPrune().search(problem, Budget()).history} == {0.0}
    source = InterpolatedLatency(problem.network, LatencyInterpolator(), problem.latency)
    result = CPrune().search(
        replace(
            problem,
            latency=PredictedLatency(
                problem.network, source, Believing(predictor, 0.1), DEVICE, 0.2
            ),
        ),
        Budget(),
    )
    assert {s.predicted_share for s in result.history} == {1.0}
    assert result.cost["fresh_trials"] == 0
    assert SearchResult.from_json(result.to_json()) == result


PLAIN = 'nn.conv2d(a0,a1){data_layout="NCHW"};add(v0,a2){};add(v1,a3){};nn.relu(v2){}->float32|kernel=(3, 3)'
PACKED = 'nn.conv2d(a0,a1){data_layout="NHWC", form=packed from NHWC};add(v0,a2){};add(v1,a3){};nn.relu(v2){}->float32|kernel=(3, 3)'
CONV = OperatorKind(name="conv2d", kernel=3, stride=1, height=16)


def test_the_cache_gives_each_shape_at_the_fastest_of_its_variants() -> None:
    store = SqlStore("sqlite://")
    shapes = "1x8x16x16,8x8x3x3,1x8x1x1,1x8x16x16,1x8x16x16"
    tasks = [
        Workload(
            key=f"{family}|{shapes}",
            family=family,
            channels_in=8,
            channels_out=8,
            macs=147456,
            operator=CONV,
        )
        for family in (PLAIN, PACKED)
    ]
    tasks.append(
        Workload(
            key="transpose to NHWC|1x8x16x16",
            family="transpose to NHWC",
            channels_in=8,
            channels_out=8,
            macs=0,
            operator=OperatorKind(name="other", kernel=1, stride=1, height=16),
        )
    )
    store.describe(tasks)
    for workload, seconds in zip(tasks, (2e-5, 1e-5, 1e-6), strict=True):
        store.add_trials(
            "c",
            [
                StoredTrial(
                    workload=workload.key,
                    trace_digest="p",
                    trace_json="[]",
                    measurement=Measurement((seconds,)),
                )
            ],
        )
    (found,) = stored_samples(store, "c", DEVICE)
    assert (found.workload, found.cost.latency_s, found.origin) == (
        tasks[1],
        1e-5,
        f"{kind(tasks[0])} at 16",
    )
    assert kind(tasks[0]) == kind(tasks[1]) == "conv2d 3x3/1 +map activated"
    store.close()


def test_a_bound_grows_with_the_work_and_shrinks_with_the_device() -> None:
    small, large = (
        Workload(
            key=f"conv|1x{n}x16x16,{n}x{n}x3x3",
            family="conv",
            channels_in=n,
            channels_out=n,
            macs=2304 * n * n,
            operator=CONV,
        )
        for n in (8, 64)
    )
    assert bound_s(small, DEVICE) < bound_s(large, DEVICE)
    assert bound_s(large, replace(DEVICE, conv3x3_gflops=200.0)) < bound_s(large, DEVICE)
    assert bound_s(
        Workload(
            key="other|1x1",
            family="other",
            channels_in=1,
            channels_out=1,
            macs=0,
            operator=OperatorKind(name="other"),
        ),
        DEVICE,
    ) == pytest.approx(1e-6), "no task is faster than a launch"
    assert features(small, DEVICE).shape == (len(FEATURES),)


def test_only_who_predicts_imports_scikit_learn() -> None:
    code = "import sys, cprune_rl.envs.problems, cprune_rl.latency.predicted; print([m for m in ('sklearn', 'tvm', 'torch') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        ).stdout.strip()
        == "[]"
    )


@pytest.mark.parametrize(
    ("predict", "said"), [(0.0, ""), (0.2, "Every task is measured: 0 measured tasks")]
)
def test_a_run_predicts_only_where_it_is_asked_to_and_has_learnt_enough(
    predict: float, said: str
) -> None:
    from rich.console import Console

    from cprune_rl.compiler.tuning.budget import TuningSettings
    from cprune_rl.pipeline.backends.tvm import TvmSettings, learn_latencies
    from cprune_rl.pipeline.progress import ProgressLog

    console = Console(file=io.StringIO(), width=200)
    store = SqlStore("sqlite://")
    settings = TvmSettings(
        tuning=TuningSettings(),
        sweep=(),
        scheme_sweep=(),
        widest_interval=predict,
        timing_rounds=1,
        seed=0,
    )
    assert learn_latencies(settings, store, "c", DEVICE, ProgressLog(console)) is None
    assert (said in console.file.getvalue()) if said else not console.file.getvalue()  # type: ignore[attr-defined]
    store.close()
