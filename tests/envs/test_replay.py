"""Replays: what is hidden from a search, what it is charged with, and what is true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cprune_rl.core.loss_model import LossModel
from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.envs.problems.registry import read_recording
from cprune_rl.envs.problems.replay import (
    TRIALS_PER_SCHEME_TASK,
    TRIALS_PER_TASK,
    LossNoise,
    ReplaySettings,
    open_replay,
)
from cprune_rl.errors import DataError
from cprune_rl.testing import toy_problem
from tests.doubles.toy_recordings import save_toy, warm_start_plans

NAME = "resnet8@znver4-1t"


def test_a_task_is_interpolated_until_it_is_measured() -> None:
    problem = open_replay(NAME).problem
    workloads = problem.network.workloads(problem.network.uniform(0.8))
    assert not all(cost.is_measured for cost in problem.latency.predict(workloads))
    costs = problem.latency.measure(problem.network.uniform(0.8))
    assert problem.latency.predict(workloads) == costs
    assert problem.latency.spending.fresh_trials > 0


def test_with_perfect_information_predictions_are_the_truth() -> None:
    replay = open_replay(NAME, settings=ReplaySettings(perfect_information=True))
    problem = replay.problem
    for ratio in (0.4, 0.7, 1.0):
        plan = problem.network.uniform(ratio)
        assert problem.predicted_s(plan) == problem.measured_s(plan)
        assert problem.oracle.accuracy(plan).value == pytest.approx(replay.accuracy(plan))
        assert problem.predicted_loss(plan) == pytest.approx(
            problem.dense_accuracy - replay.accuracy(plan)
        )


def test_the_dense_network_always_holds_and_a_tenth_of_it_does_not() -> None:
    replay = open_replay(NAME, -0.02)
    network = replay.problem.network
    assert replay.holds(network.dense)
    assert not replay.holds(network.uniform(0.1))


def test_a_floor_that_is_asked_for_comes_before_that_of_the_name() -> None:
    dense_accuracy = open_replay(NAME).problem.dense_accuracy
    assert open_replay(f"{NAME}:-0.03").problem.floor == pytest.approx(dense_accuracy - 0.03)
    assert open_replay(f"{NAME}:-0.03", -0.02).problem.floor == pytest.approx(dense_accuracy - 0.02)


def test_a_warm_start_is_charged() -> None:
    warm = open_replay(NAME)
    cold = open_replay(NAME, settings=ReplaySettings(warm_start=False))
    assert (cold.n_charged_tasks, cold.charged_trials) == (0, 0)
    assert warm.n_charged_tasks == warm.n_tasks - cold.n_tasks > 0
    assert warm.charged_trials == TRIALS_PER_TASK * warm.n_charged_tasks


def test_a_device_may_be_hidden() -> None:
    hidden = open_replay(NAME, settings=ReplaySettings(is_device_hidden=True)).problem
    assert not any(hidden.descriptor.vector())
    assert any(open_replay(NAME).problem.descriptor.vector())


def test_the_oracle_errs_alike_for_plans_much_alike_and_says_the_same_twice() -> None:
    first, second = open_replay(NAME, -0.02), open_replay(NAME, -0.02)
    network = first.problem.network
    plans = [network.uniform(ratio) for ratio in np.linspace(0.3, 0.9, 40)]
    answers = [answer.value for answer in first.problem.oracle.accuracies(plans)]
    assert answers == [answer.value for answer in second.problem.oracle.accuracies(plans)]
    truth = LossModelOracle(network, first.true_losses, first.problem.dense_accuracy)
    errors = np.array(answers) - [answer.value for answer in truth.accuracies(plans)]
    noise = LossNoise().noise
    assert np.abs(np.diff(errors)).mean() < 3 * noise, "a little narrower, and misjudged as much"
    assert np.abs(errors).max() > 3 * noise
    standard_errors = {a.standard_error for a in first.problem.oracle.accuracies(plans)}
    assert standard_errors == {LossNoise().standard_error}


def test_recorded_losses_are_hidden_behind_a_uniform_model() -> None:
    replay = open_replay(NAME, settings=ReplaySettings(losses="recorded"))
    recording = read_recording(NAME)
    np.testing.assert_array_equal(replay.true_losses.power, recording.loss_model.power)
    ratios = replay.true_losses.scale / recording.loss_model.scale
    np.testing.assert_allclose(ratios, ratios[0])
    predicted = replay.problem.loss_model
    assert len(set(predicted.scale)) == len(set(predicted.power)) == 1
    assert set(open_replay(NAME).true_losses.power) != set(replay.true_losses.power)


def test_true_losses_are_drawn_around_predicted_ones() -> None:
    predicted = LossModel(np.full(4, 0.02), np.full(4, 3.5))
    noise = LossNoise()
    rng = np.random.default_rng(0)
    drawn = [noise.draw(predicted, rng) for _ in range(4000)]
    np.testing.assert_allclose(np.mean([d.scale for d in drawn]), 0.02, rtol=0.02)
    np.testing.assert_allclose(np.mean([d.power for d in drawn]), 3.5, rtol=0.02)
    logs = np.log([d.scale for d in drawn])
    of_groups = (logs - logs.mean(axis=1, keepdims=True)).std() * np.sqrt(4 / 3)
    np.testing.assert_allclose(of_groups, noise.group, rtol=0.05)


def test_losses_of_groups_are_drawn_alike_with_layers_and_without() -> None:
    with_layers = toy_problem().loss_model
    without = replace(with_layers, layer_scale=np.empty(0))
    first, second = (
        LossNoise().draw(predicted, np.random.default_rng(3))
        for predicted in (with_layers, without)
    )
    np.testing.assert_array_equal(first.scale, second.scale)
    np.testing.assert_array_equal(first.power, second.power)


@pytest.fixture
def with_schemes(tmp_path: Path) -> str:
    """A recording of the toy problem that has schemes."""
    path = tmp_path / "toy.json"
    save_toy(path, warm_start_plans(toy_problem().network))
    return str(path)


def test_losses_of_layers_are_those_of_the_seed(with_schemes: str) -> None:
    first, again, other = (
        open_replay(with_schemes, -0.02, ReplaySettings(seed=seed, with_schemes=True))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.true_losses.layer_scale, again.true_losses.layer_scale)
    assert (first.true_losses.layer_scale != other.true_losses.layer_scale).all()


def test_a_table_of_schemes_is_charged_at_its_own_rate(with_schemes: str) -> None:
    plain = open_replay(with_schemes)
    table = open_replay(with_schemes, settings=ReplaySettings(with_schemes=True))
    n_scheme_tasks = table.n_charged_tasks - plain.n_charged_tasks
    assert n_scheme_tasks > 0
    assert table.charged_trials - plain.charged_trials == TRIALS_PER_SCHEME_TASK * n_scheme_tasks


def test_schemes_are_not_replayed_where_none_were_recorded() -> None:
    with pytest.raises(DataError, match="without schemes"):
        open_replay(NAME, settings=ReplaySettings(with_schemes=True))
