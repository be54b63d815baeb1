"""The oracle that answers by a loss model."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_rl.envs.problems.loss_model_oracle import LossModelOracle
from cprune_rl.testing import toy_problem

PROBLEM = toy_problem()
PLANS = [PROBLEM.network.uniform(ratio) for ratio in np.linspace(0.3, 1.0, 60)]


def make_oracle(**options: float) -> LossModelOracle:
    return LossModelOracle(PROBLEM.network, PROBLEM.loss_model, 0.95, **options)  # type: ignore[arg-type]


def test_it_takes_the_loss_off_the_dense_accuracy() -> None:
    oracle = make_oracle()
    for plan in PLANS:
        expected = 0.95 - PROBLEM.loss_model.plan_loss(PROBLEM.network, plan)
        assert oracle.accuracy(plan).value == pytest.approx(expected)
    assert oracle.accuracy(PROBLEM.network.dense).value == 0.95


def test_a_plan_counts_as_one_evaluation_however_often_it_is_asked_for() -> None:
    oracle = make_oracle()
    for _ in range(3):
        oracle.accuracies(PLANS[:5])
    oracle.loss(PLANS[10])
    assert oracle.spending.accuracy_evaluations == len(set(PLANS[:5]))


def test_noise_is_of_the_stated_size_and_stays_with_the_plan() -> None:
    still, noisy = make_oracle(), make_oracle(noise=0.01, seed=3)
    plans = list(dict.fromkeys(PLANS))
    errors = [noisy.accuracy(plan).value - still.accuracy(plan).value for plan in plans]
    assert 0.007 < np.std(errors) < 0.013
    again = make_oracle(noise=0.01, seed=3)
    assert again.accuracies(plans) == noisy.accuracies(plans)
    assert make_oracle(noise=0.01, seed=4).accuracies(plans) != noisy.accuracies(plans)


def test_it_states_its_noise_or_what_it_is_told_to_state() -> None:
    assert make_oracle(noise=0.01).accuracy(PLANS[0]).standard_error == 0.01
    assert make_oracle(noise=0.01, standard_error=0.02).accuracy(PLANS[0]).standard_error == 0.02


def test_an_accuracy_stays_between_none_and_all() -> None:
    oracle = LossModelOracle(PROBLEM.network, PROBLEM.loss_model, 0.01)
    assert oracle.accuracy(PROBLEM.network.uniform(0.2)).value == 0.0
