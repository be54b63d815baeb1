"""The environment: Gymnasium's and SB3's checks, and the properties that results rest on."""

import math

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.envs import CPruneEnv
from cprune_rl.envs.actions.channel_actions import STEP_COUNTS
from cprune_rl.envs.cprune_env import MAX_EPISODE_STEPS
from cprune_rl.envs.observation import FEATURES
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.errors import ConfigError, DeviceError, FloorError, UnknownNameError
from cprune_rl.testing import AnalyticLatency, FailingLatency, toy_problem

N_COUNTS = len(STEP_COUNTS)


def roll(env: CPruneEnv, seed: int) -> tuple[list[float], list[dict]]:
    """One episode of random legal actions: rewards and infos."""
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    rewards, infos, done = [], [], False
    while not done:
        action = rng.choice(np.flatnonzero(env.action_masks()))
        _, reward, terminated, truncated, info = env.step(action)
        rewards.append(reward)
        infos.append(info)
        done = terminated or truncated
    return rewards, infos


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0.002, 0.01, 0.03, 0.1]))
def test_the_return_is_the_log_speedup_and_every_state_holds_the_floor(
    seed: int, drop: float
) -> None:
    env = CPruneEnv(toy_problem(drop=drop))
    rewards, infos = roll(env, seed)
    final = infos[-1]
    assert sum(rewards) == pytest.approx(
        math.log(final["dense_latency_s"] / final["latency_s"]), abs=1e-12
    )
    assert all(info["accuracy"] >= env.problem.floor for info in infos)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_legal_action_is_never_masked_and_a_masked_one_never_legal(seed: int) -> None:
    env = CPruneEnv(toy_problem(), max_rows=8)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(6):
        mask = env.action_masks()
        assert mask[-1]
        table, groups = env.state.table, env.problem.network.groups
        for action in range(len(mask) - 1):
            row, count = action // N_COUNTS, STEP_COUNTS[action % N_COUNTS]
            prunable = row < len(table.rows) and len(table.rows[row].groups) > 0
            legal = prunable and all(
                (
                    target := (math.ceil(table.plan.widths[g] / table.steps[g]) - count)
                    * table.steps[g]
                )
                >= groups[g].minimum
                and target > env.state.rejected[g]
                for g in table.rows[row].groups
            )
            assert mask[action] == legal
        if not mask[:-1].any():
            break
        _, _, terminated, truncated, _ = env.step(rng.choice(np.flatnonzero(mask[:-1])))
        if terminated or truncated:
            break


def test_a_masked_action_changes_nothing_and_pays_nothing() -> None:
    env = CPruneEnv(toy_problem())
    env.reset(seed=0)
    plan = env.state.plan
    masked = int(np.flatnonzero(~env.action_masks())[0])
    _, reward, *_, info = env.step(masked)
    assert (reward, env.state.plan, info["error_type"]) == (0.0, plan, "illegal_action")


def test_a_rejected_step_is_undone_and_its_width_remembered() -> None:
    env = CPruneEnv(toy_problem(drop=1e-9))
    env.reset(seed=0)
    before = env.state.plan
    action = int(np.flatnonzero(env.action_masks())[0])
    move = env.prune_action(action)
    _, reward, *_, info = env.step(action)
    assert (reward, info["accepted"], env.state.plan) == (0.0, False, before)
    assert move is not None
    assert [env.state.rejected[g] for g in move.units] == [move.plan.widths[g] for g in move.units]
    assert not env.action_masks()[action]


def test_a_failed_measurement_is_a_rejected_step_that_says_why() -> None:
    env = CPruneEnv(toy_problem(make_latency=FailingLatency))
    env.reset(seed=0)
    _, reward, _, _, info = env.step(int(np.flatnonzero(env.action_masks())[0]))
    assert (reward, info["accepted"], info["error_type"], info["error_details"]) == (
        0.0,
        False,
        "measurement",
        "crashed",
    )


def test_info_says_which_actions_are_legal_as_the_method_does() -> None:
    env = CPruneEnv(toy_problem())
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(8):
        np.testing.assert_array_equal(info["action_mask"], env.action_masks())
        action = env.action_space.sample(info["action_mask"])
        assert env.action_masks()[action]
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break


def test_a_mask_that_somebody_changes_is_their_own() -> None:
    env = CPruneEnv(toy_problem())
    _, info = env.reset(seed=0)
    legal = env.action_masks()
    info["action_mask"][:] = 0
    env.action_masks()[:] = False
    np.testing.assert_array_equal(env.action_masks(), legal)


def test_stop_ends_the_episode() -> None:
    env = CPruneEnv(toy_problem())
    env.reset(seed=0)
    _, reward, terminated, truncated, _ = env.step(env.stop_action)
    assert (reward, terminated, truncated) == (0.0, True, False)


def test_an_episode_is_truncated_at_the_step_limit() -> None:
    env = CPruneEnv(toy_problem(drop=0.9), max_steps=1)
    env.reset(seed=0)
    *_, terminated, truncated, _ = env.step(int(np.flatnonzero(env.action_masks())[0]))
    assert (terminated, truncated) == (False, True)


def first_legal(env: gymnasium.Env) -> int:
    return int(np.flatnonzero(env.unwrapped.action_masks())[0])


def test_gymnasium_truncates_what_it_makes_at_the_registered_number_of_steps() -> None:
    env = gymnasium.make("cprune_rl/CPruneRecorded-v0", problem=toy_problem(drop=0.9))
    assert env.spec is not None
    assert env.spec.max_episode_steps == MAX_EPISODE_STEPS
    env = gymnasium.make(
        "cprune_rl/CPruneRecorded-v0", problem=toy_problem(drop=0.9), max_episode_steps=2
    )
    env.reset(seed=0)
    ends = [env.step(first_legal(env))[2:4] for _ in range(2)]
    assert ends == [(False, False), (False, True)]


def test_an_environment_made_by_hand_truncates_at_the_same_number() -> None:
    env = CPruneEnv(toy_problem(drop=0.9), max_rejections=1000)
    env.reset(seed=0)
    masked = int(np.flatnonzero(~env.action_masks())[0])
    ends = [env.step(masked)[2:4] for _ in range(MAX_EPISODE_STEPS)]
    assert ends[-2:] == [(False, False), (False, True)]


def test_an_episode_that_ends_at_the_limit_is_not_truncated_too() -> None:
    env = CPruneEnv(toy_problem(), max_steps=1, max_rejections=1)
    env.reset(seed=0)
    masked = int(np.flatnonzero(~env.action_masks())[0])
    assert env.step(masked)[2:4] == (True, False)


def test_a_limit_that_gymnasium_would_cut_off_is_refused_and_the_other_option_is_named() -> None:
    env = gymnasium.make("cprune_rl/CPruneRecorded-v0", problem=toy_problem(), max_steps=1000)
    with pytest.raises(ConfigError, match="max_episode_steps=1000"):
        env.reset(seed=0)


def test_reset_takes_a_problem_for_one_episode() -> None:
    env = CPruneEnv(toy_problem())
    env.reset(seed=0)
    own = env.problem
    for choice, name in (
        (toy_problem([8, 16, 24]), "toy"),
        ("resnet8@znver4-1t:-0.02", open_recorded("resnet8@znver4-1t").name),
        (lambda rng: toy_problem([int(rng.integers(8, 64))] * 3), "toy"),
    ):
        env.reset(options={"problem": choice})
        assert env.problem is not own
        assert env.problem.name == name
    env.reset()
    assert env.problem is own


def test_a_recording_that_reset_names_is_read_once() -> None:
    env = CPruneEnv(toy_problem())
    env.reset(options={"problem": "resnet8"})
    first = env.problem
    env.reset(options={"problem": "resnet8"})
    assert env.problem is first


@pytest.mark.parametrize(("floor", "expected"), [(-0.01, 0.94), (0.9, 0.9)])
def test_reset_takes_a_floor_for_one_episode(floor: float, expected: float) -> None:
    env = CPruneEnv(toy_problem(drop=0.02))
    env.reset(seed=0, options={"floor": floor})
    assert env.problem.floor == pytest.approx(expected)
    env.reset()
    assert env.problem.floor == pytest.approx(0.93)


def test_a_wrong_option_of_reset_is_named_with_those_that_there_are() -> None:
    env = CPruneEnv(toy_problem())
    with pytest.raises(UnknownNameError, match=r"reset option 'flor'.*Known: floor, problem"):
        env.reset(options={"flor": -0.01})
    with pytest.raises(FloorError, match="above"):
        env.reset(options={"floor": 0.99})
    with pytest.raises(ConfigError, match="problem 3 is none"):
        env.reset(options={"problem": 3})


def test_close_closes_what_the_problem_opened_once() -> None:
    closed = []
    env = CPruneEnv(toy_problem(), on_close=lambda: closed.append(True))
    env.close()
    env.close()
    assert closed == [True]


@given(st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_same_actions_give_the_same_episode(seed: int) -> None:
    assert roll(CPruneEnv(toy_problem()), seed)[0] == roll(CPruneEnv(toy_problem()), seed)[0]


def test_padding_does_not_change_the_rows() -> None:
    small, large = CPruneEnv(toy_problem(), max_rows=6), CPruneEnv(toy_problem(), max_rows=40)
    a, b = small.reset(seed=0)[0], large.reset(seed=0)[0]
    np.testing.assert_array_equal(a, b[:6])
    assert not b[len(small.state.table.rows) :].any()
    assert a.shape[1] == len(FEATURES)


def test_the_packaged_recording_opens_by_name_and_steps() -> None:
    env = gymnasium.make("cprune_rl/CPruneRecorded-v0")
    env.reset(seed=0)
    assert env.unwrapped.action_masks().sum() > 3


def test_a_recording_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'resnet8'\?"):
        CPruneEnv("resnet9")


class GoneDevice(AnalyticLatency):
    """A device that answers for the dense network, then is gone until it is asked again from the
    start.
    """

    def measure(self, plan: Plan) -> list[TaskCost]:
        if plan != self._network.dense:
            raise DeviceError("the board is gone")
        return super().measure(plan)


def test_a_device_that_is_gone_ends_the_episode_and_the_next_one_begins() -> None:
    env = CPruneEnv(toy_problem(make_latency=GoneDevice))
    for _ in range(2):
        env.reset(seed=0)
        before = env.state.plan
        _, reward, terminated, truncated, info = env.step(
            int(np.flatnonzero(env.action_masks())[0])
        )
        assert (reward, terminated, truncated, info["error_type"]) == (0.0, True, False, "device")
        assert "the board is gone" in info["error_details"]
        assert info["plan"] == before


def test_training_goes_on_where_a_device_fails_and_a_search_says_so() -> None:
    settings = TrainingSettings(
        total_timesteps=64, n_envs=4, max_rows=8, options={"n_steps": 8, "batch_size": 16}
    )
    trained = train_policy(lambda rng: toy_problem(make_latency=GoneDevice), settings)
    assert trained.algorithm.num_timesteps >= 64
    with pytest.raises(DeviceError, match="the board is gone"):
        PolicyRollOut(trained.policy).search(toy_problem(make_latency=GoneDevice), Budget())
