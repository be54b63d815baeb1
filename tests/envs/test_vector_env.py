"""Gymnasium's vector environment: the same episodes as one by one, in one process or several."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.core.network import Plan
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.vector_env import CPruneVectorEnv
from cprune_rl.errors import UnknownNameError
from cprune_rl.testing import toy_problem

N_ENVS = 3


def draw(rng: np.random.Generator) -> Problem:
    return toy_problem(drop=float(rng.choice([0.01, 0.03])))


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_batch_gives_the_episodes_of_single_environments(n_workers: int) -> None:
    envs = CPruneVectorEnv(
        draw, num_envs=N_ENVS, n_workers=n_workers, max_episode_steps=12, max_rows=8
    )
    singles = [CPruneEnv(draw, max_rows=8, max_steps=12) for _ in range(N_ENVS)]
    rng = np.random.default_rng(0)
    try:
        obs, infos = envs.reset(seed=5)
        expected = np.stack([env.reset(seed=5 + i)[0] for i, env in enumerate(singles)])
        n_ended = 0
        for _ in range(40):
            np.testing.assert_array_equal(obs, expected)
            np.testing.assert_array_equal(infos["action_mask"], envs.action_masks())
            actions = np.array([rng.choice(np.flatnonzero(m)) for m in infos["action_mask"]])
            obs, rewards, terminations, truncations, infos = envs.step(actions)
            for i, env in enumerate(singles):
                last, reward, terminated, truncated, info = env.step(int(actions[i]))
                assert rewards[i] == reward
                assert (terminations[i], truncations[i]) == (terminated, truncated)
                if terminated or truncated:
                    n_ended += 1
                    np.testing.assert_array_equal(infos["final_obs"][i], last)
                    assert infos["final_info"]["latency_s"][i] == info["latency_s"]
                    assert isinstance(infos["final_info"]["plan"][i], Plan)
                    last, info = env.reset()
                assert infos["latency_s"][i] == info["latency_s"]
                assert infos["accuracy"][i] == info["accuracy"]
                expected[i] = last
        assert n_ended > 3
    finally:
        envs.close()
        envs.close()


def test_make_vec_gives_the_batched_environment_with_the_registered_limit() -> None:
    envs = gymnasium.make_vec("cprune_rl/CPruneRecorded-v0", num_envs=2, max_rows=16)
    assert isinstance(envs, CPruneVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert (envs.num_envs, envs.observation_space.shape) == (2, (2, 16, 49))
    assert envs.spec is not None
    obs, infos = envs.reset(seed=0)
    assert obs in envs.observation_space
    assert infos["accuracy"] == pytest.approx([0.99275] * 2)
    stop = np.full(2, envs.single_action_space.n - 1)  # type: ignore[attr-defined]
    _, rewards, terminations, truncations, _ = envs.step(stop)
    assert (rewards.tolist(), terminations.all(), truncations.any()) == ([0.0, 0.0], True, False)
    envs.close()


def test_the_scheme_mapping_has_one_too() -> None:
    envs = gymnasium.make_vec(
        "cprune_rl/SchemeMappingRecorded-v0", num_envs=2, problem=toy_problem(), max_rows=8
    )
    obs, infos = envs.reset(seed=0)
    assert obs.shape == (2, 8, 274)
    assert infos["action_mask"].shape == (2, 8 * 47 + 1)
    envs.close()


def test_gymnasiums_wrappers_count_its_episodes() -> None:
    envs = gymnasium.make_vec(
        "cprune_rl/CPruneRecorded-v0", num_envs=2, problem=toy_problem(), max_rows=8
    )
    counted = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    counted.reset(seed=0)
    *_, infos = counted.step(np.full(2, 24))
    assert infos["episode"]["l"].tolist() == [1, 1]
    counted.close()


def test_it_renders_each_environment() -> None:
    envs = CPruneVectorEnv(toy_problem(), num_envs=2, max_rows=8, render_mode="ansi")
    envs.reset(seed=0)
    texts = envs.render()
    assert texts is not None
    assert ["conv0" in text for text in texts] == [True, True]
    envs.close()


def test_reset_takes_a_seed_for_each_and_options_for_all() -> None:
    envs = CPruneVectorEnv(draw, num_envs=2, max_rows=8)
    _, infos = envs.reset(seed=[1, None], options={"problem": toy_problem([8, 8, 8])})
    with pytest.raises(UnknownNameError, match="reset option"):
        envs.reset(options={"floors": 1})
    assert (infos["latency_s"] == infos["latency_s"][0]).all()
    envs.close()


def test_an_error_of_another_process_is_raised_here() -> None:
    envs = CPruneVectorEnv(draw, num_envs=2, n_workers=1, max_rows=8)
    try:
        with pytest.raises(UnknownNameError, match="reset option"):
            envs.reset(options={"floors": 1})
    finally:
        envs.close()
