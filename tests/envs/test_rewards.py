"""Rewards: what a step pays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from cprune_rl.envs.rewards import REWARDS, Outcome, get_reward
from cprune_rl.errors import UnknownNameError

ACCEPTED = Outcome(
    accepted=True, latency_before_s=2e-3, latency_after_s=1e-3, accuracy=0.95, floor=0.94
)
REJECTED = replace(ACCEPTED, accepted=False, accuracy=0.90)


@pytest.mark.parametrize("name", REWARDS)
def test_an_accepted_step_pays_its_log_speedup(name: str) -> None:
    assert get_reward(name)(ACCEPTED) == pytest.approx(math.log(2))


def test_a_rejection_is_free_unless_it_is_to_cost_something() -> None:
    assert get_reward("gated")(REJECTED) == 0.0
    assert get_reward("gated-with-cost")(REJECTED) == -0.01


def test_a_step_that_could_not_be_measured_pays_as_a_rejection() -> None:
    assert get_reward("gated")(replace(REJECTED, latency_after_s=math.inf)) == 0.0


def test_an_unknown_reward_is_named_with_those_that_there_are() -> None:
    with pytest.raises(UnknownNameError, match=r"'gatd'\. Did you mean 'gated'"):
        get_reward("gatd")
