"""Wrappers over sets of problems."""

from __future__ import annotations

from typing import Any

import gymnasium
import pytest

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.envs.problems.registry import recorded_names
from cprune_rl.envs.wrappers import (
    CycleOverProblems,
    IterateOverProblems,
    RandomOrderProblems,
    split_held_out,
)
from cprune_rl.errors import ConfigError
from cprune_rl.testing import toy_problem

WIDTHS = (24, 32, 48)


def problems() -> list[Any]:
    """Problems that differ by the width of their first group."""
    return [toy_problem([width, 16, 16]) for width in WIDTHS]


def make_env() -> gymnasium.Env:
    return gymnasium.make("cprune_rl/CPruneRecorded-v0", problem=toy_problem(), max_rows=8)


def first_widths(env: gymnasium.Env, n_episodes: int) -> list[int]:
    return [env.reset()[1]["plan"].widths[0] for _ in range(n_episodes)]


def test_each_problem_is_solved_once_in_order_and_then_it_stops() -> None:
    env = IterateOverProblems(make_env(), problems())
    assert first_widths(env, 3) == list(WIDTHS)
    with pytest.raises(StopIteration):
        env.reset()


def test_an_iterable_may_be_endless_and_have_names_and_samplers() -> None:
    env = IterateOverProblems(make_env(), iter(["resnet8", lambda rng: toy_problem()]))
    assert env.reset()[1]["accuracy"] == pytest.approx(0.99275)
    assert env.reset()[1]["accuracy"] == pytest.approx(0.95)


def test_problems_come_again_and_again() -> None:
    assert first_widths(CycleOverProblems(make_env(), problems()), 7) == [*WIDTHS, *WIDTHS, 24]


def test_a_random_order_has_every_problem_and_is_that_of_its_seed() -> None:
    env = RandomOrderProblems(make_env(), problems(), seed=3)
    drawn = first_widths(env, 30)
    assert set(drawn) == set(WIDTHS)
    assert drawn[:3] != list(WIDTHS) or drawn[3:6] != list(WIDTHS)
    assert first_widths(RandomOrderProblems(make_env(), problems(), seed=3), 30) == drawn
    env.reset(seed=5)
    again = first_widths(env, 5)
    env.reset(seed=5)
    assert first_widths(env, 5) == again


def test_a_problem_given_to_reset_comes_first_and_takes_no_turn() -> None:
    env = CycleOverProblems(make_env(), problems())
    given = toy_problem([64, 16, 16])
    assert env.reset(options={"problem": given})[1]["plan"].widths[0] == 64
    assert env.reset(options={"floor": -0.001})[1]["plan"].widths[0] == WIDTHS[0]
    assert env.unwrapped.problem.floor == pytest.approx(0.949)  # type: ignore[attr-defined]


def test_an_episode_on_each_problem_can_be_played_to_its_end() -> None:
    env = CycleOverProblems(make_env(), problems())
    for _ in range(3):
        _, info = env.reset(seed=0)
        done = False
        while not done:
            action = env.action_space.sample(info["action_mask"])  # type: ignore[arg-type]
            _, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated


@pytest.mark.parametrize("wrapper", [CycleOverProblems, RandomOrderProblems])
def test_no_problems_are_refused(wrapper: type[IterateOverProblems]) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        wrapper(make_env(), [])


@pytest.mark.parametrize(
    ("entry", "n_held_out"), [("vgg-small", 4), ("@haswell-1t", 4), ("resnet8@znver4-2t", 1)]
)
def test_recordings_are_held_out_by_model_device_class_or_name(entry: str, n_held_out: int) -> None:
    train, test = split_held_out([entry])
    assert len(test) == n_held_out
    assert sorted([*train, *test]) == sorted(recorded_names())
    assert all(entry in name for name in test)
    assert not any(entry in name for name in train)


def test_what_holds_nothing_or_everything_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="'vgg-smal' holds nothing out"):
        split_held_out(["vgg-smal"])
    with pytest.raises(ConfigError, match="no problem is left"):
        split_held_out(["resnet8"], ["resnet8@znver4-1t"])
