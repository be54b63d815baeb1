"""The predictor of shapes that were not measured: its promises on a device that is a formula."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.predictor_study.leave_one_network_out import (
    BAR,
    Evaluation,
    MeasuredNetwork,
    leave_one_network_out,
)
from benchmarks.predictor_study.plan_choice_regret import measured_plans
from cprune_rl.core.protocols import TaskCost
from cprune_rl.errors import DataError
from cprune_rl.latency.predictor import LatencyPredictor
from cprune_rl.testing import toy_network
from tests.latency.measured_networks import DEVICE, WIDTHS, measured_networks, samples


@pytest.fixture(scope="module")
def evaluations() -> list[Evaluation]:
    return leave_one_network_out(measured_networks(noise=0.03))


def test_equal_samples_in_any_order_and_equal_seeds_give_equal_predictions(
    predictor: LatencyPredictor,
) -> None:
    again = LatencyPredictor.fit(samples(measured_networks()[:0:-1]))
    workloads = [workload for workload, _ in measured_networks()[0].costs]
    assert again.predict(workloads, DEVICE) == predictor.predict(workloads, DEVICE)
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
    evaluations: list[Evaluation],
) -> None:
    assert [e.network for e in evaluations] == list(WIDTHS)
    assert np.median([e.median_error for e in evaluations]) < 0.1
    assert np.mean([e.coverage for e in evaluations]) >= 0.85
    assert min(e.rank_correlation for e in evaluations) > 0.9


def test_what_is_known_is_not_evaluated() -> None:
    first, *others = measured_networks()[:3]
    evaluations = leave_one_network_out([first, *others], is_dense_known=True)
    (evaluation,) = [e for e in evaluations if e.network == "a"]
    dense = {w.key for w in first.network.workloads(first.network.dense)}
    elsewhere = {w.key for measured in others for w, _ in measured.costs}
    unknown = [w for w, _ in first.costs if w.key not in dense | elsewhere]
    assert evaluation.n_tasks == len(unknown)


def test_choices_by_prediction_beat_chance_and_the_bar_can_hold(
    evaluations: list[Evaluation],
) -> None:
    choices = [e.plan_choice for e in evaluations if e.plan_choice is not None]
    assert len(choices) == len(evaluations)
    assert all(c.regret <= c.random_regret for c in choices)
    assert BAR.holds(evaluations)
    assert not BAR.holds([replace(e, coverage=0.5) for e in evaluations])
    assert not BAR.holds([replace(e, median_error=0.3) for e in evaluations])
    assert not BAR.holds([replace(e, plan_choice=None) for e in evaluations]), (
        "choices that were not evaluated reach no bar"
    )
    assert evaluations[0].to_json()["regret"] == pytest.approx(choices[0].regret, abs=1e-4)


def test_plans_for_evaluation_are_made_of_measured_tasks_alone() -> None:
    measured = measured_networks()[0]
    known = [workload for workload, _ in measured.costs]
    plans = measured_plans(measured.network, known, 30, np.random.default_rng(0))
    assert len(set(plans)) == len(plans) > 10
    keys = {w.key for plan in plans for w in measured.network.workloads(plan)}
    assert keys <= {w.key for w in known}
    assert measured_plans(measured.network, known[:1], 30, np.random.default_rng(0)) == []


@pytest.mark.parametrize(
    ("of", "message"), [([], "0 measured tasks"), (measured_networks()[:1], "1 networks")]
)
def test_too_little_to_learn_from_is_a_clear_error(of: list[MeasuredNetwork], message: str) -> None:
    with pytest.raises(DataError, match=message):
        LatencyPredictor.fit(samples(of))


def test_a_failed_task_teaches_nothing_and_two_networks_evaluate_nothing() -> None:
    crash = TaskCost(latency_s=math.inf, error="crashed")
    with pytest.raises(DataError, match="0 measured tasks"):
        LatencyPredictor.fit([replace(s, cost=crash) for s in samples(measured_networks())])
    with pytest.raises(DataError, match="takes three, found a, b"):
        leave_one_network_out(measured_networks()[:2])
    with pytest.raises(DataError, match="coverage"):
        LatencyPredictor.fit(samples(measured_networks()), coverage=90)


def test_only_who_predicts_imports_scikit_learn() -> None:
    code = (
        "import sys, cprune_rl.envs.problems, cprune_rl.latency.predicted; "
        "print([m for m in ('sklearn', 'tvm', 'torch') if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert output.strip() == "[]"
