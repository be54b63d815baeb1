"""Problems: their floor, and the sums that every searcher asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cprune_rl.envs import resolve_floor
from cprune_rl.errors import FloorError
from cprune_rl.testing import toy_problem


@pytest.mark.parametrize(("floor", "expected"), [(-0.01, 0.94), (0.0, 0.95), (0.9, 0.9)])
def test_a_floor_is_relative_or_absolute(floor: float, expected: float) -> None:
    assert resolve_floor(floor, 0.95) == pytest.approx(expected)


@pytest.mark.parametrize("floor", [0.96, 1.5, -1.5])
def test_a_floor_that_nothing_can_hold_is_refused(floor: float) -> None:
    with pytest.raises(FloorError):
        resolve_floor(floor, 0.95)


def test_a_floor_above_the_dense_network_may_be_allowed_and_none_is_below_zero() -> None:
    assert resolve_floor(0.96, 0.95, may_exceed=True) == 0.96
    assert resolve_floor(-0.5, 0.3) == 0.0


def test_a_problem_that_nothing_can_solve_is_refused() -> None:
    with pytest.raises(FloorError, match="nothing can hold it"):
        replace(toy_problem(), floor=0.96)


def test_sums_of_a_plan_are_those_of_its_parts() -> None:
    problem = toy_problem()
    half = problem.network.uniform(0.5)
    costs = problem.latency.measure(half)
    assert problem.measured_s(half) == sum(cost.latency_s for cost in costs)
    assert problem.predicted_s(half) == pytest.approx(problem.measured_s(half))
    assert problem.predicted_loss(half) == problem.loss_model.plan_loss(problem.network, half)
    assert problem.predicted_loss(problem.network.dense) == 0.0


def test_a_search_starts_from_the_dense_network_unless_the_problem_says_otherwise() -> None:
    problem = toy_problem()
    half = problem.network.uniform(0.5)
    assert problem.start_plan == problem.network.dense
    assert replace(problem, start=half).start_plan == half
