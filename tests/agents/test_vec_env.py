"""Environments in batches: the same episodes as one by one, in one process or several."""

from __future__ import annotations

import numpy as np
import pytest

from cprune_rl.agents.rl.vec_env import ProblemVecEnv
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.testing import toy_problem


def make() -> CPruneEnv:
    return CPruneEnv(
        lambda rng: toy_problem(drop=float(rng.choice([0.01, 0.03]))), max_rows=8, max_steps=12
    )


@pytest.mark.parametrize("n_workers", [0, 2])
def test_a_batch_gives_the_trajectories_of_single_environments(n_workers: int) -> None:
    vector, rng = ProblemVecEnv(make, 3, n_workers, seed=5), np.random.default_rng(0)
    singles = [make() for _ in range(3)]
    try:
        found, expected = (
            vector.reset(),
            np.stack([env.reset(seed=5 + i)[0] for i, env in enumerate(singles)]),
        )
        n_ended = 0
        for _ in range(40):
            np.testing.assert_array_equal(found, expected)
            masks = np.stack(vector.env_method("action_masks"))
            np.testing.assert_array_equal(masks, np.stack([env.action_masks() for env in singles]))
            actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
            found, rewards, dones, infos = vector.step(actions)
            for i, env in enumerate(singles):
                obs, reward, terminated, truncated, _ = env.step(int(actions[i]))
                assert rewards[i] == pytest.approx(reward)
                assert dones[i] == (terminated or truncated)
                if dones[i]:
                    n_ended += 1
                    np.testing.assert_array_equal(infos[i]["terminal_observation"], obs)
                    assert infos[i]["episode"]["l"] > 0
                    obs, _ = env.reset()
                expected[i] = obs
        assert n_ended > 3
    finally:
        vector.close()
        vector.close()


def test_an_error_in_another_process_is_told_here() -> None:
    vector = ProblemVecEnv(make, 2, 1)
    try:
        vector.reset()
        with pytest.raises((ValueError, TypeError)):
            vector.step(np.array(["a", "b"]))
    finally:
        vector.close()
