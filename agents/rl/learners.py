"""Algorithms that train the row-shared policy: two kinds of learner behind one network.

`ppo` is sb3-contrib's MaskablePPO; `dqn` is stable-baselines3's DQN, made to heed the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from cprune_rl.agents.rl.dqn import MaskedDQN, RowQPolicy
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.errors import UnknownNameError

__all__ = ["LEARNERS", "Learner", "find_learner"]

LearningRate = Callable[[float], float]
"""From the share of the training that is left."""


class Learner(Protocol):
    """One algorithm."""

    def make(
        self, env: VecEnv, learning_rate: LearningRate, *, seed: int, options: Mapping[str, Any]
    ) -> BaseAlgorithm:
        """Make the algorithm, untrained.

        Args:
            env: many environments with `action_masks`.
            learning_rate: its schedule.
            seed: of the network and of what it draws.
            options: over the defaults.
        """

    def begin_with(self, model: BaseAlgorithm, policy: RowPolicy) -> None:
        """Take over a policy's weights."""

    def policy_of(self, model: BaseAlgorithm) -> RowPolicy:
        """Give the policy as it is now, to be decoded greedily."""


class _PPO:
    """MaskablePPO; returns are not discounted."""

    _DEFAULTS: Mapping[str, Any] = {
        "n_steps": 32,
        "batch_size": 512,
        "n_epochs": 3,
        "gamma": 1.0,
        "gae_lambda": 0.95,
        "ent_coef": 0.003,
    }

    def make(
        self, env: VecEnv, learning_rate: LearningRate, *, seed: int, options: Mapping[str, Any]
    ) -> BaseAlgorithm:
        settings = {**self._DEFAULTS, **options}
        model: BaseAlgorithm = MaskablePPO(
            RowPolicy, env, learning_rate=learning_rate, seed=seed, device="cpu", **settings
        )
        return model

    def begin_with(self, model: BaseAlgorithm, policy: RowPolicy) -> None:
        model.policy.load_state_dict(policy.state_dict())

    def policy_of(self, model: BaseAlgorithm) -> RowPolicy:
        assert isinstance(model.policy, RowPolicy)
        return model.policy


class _DQN:
    """DQN; returns are not discounted, and the first 30 % of the training explore less and less."""

    _DEFAULTS: Mapping[str, Any] = {
        "buffer_size": 20_000,
        "learning_starts": 2_000,
        "batch_size": 256,
        "gamma": 1.0,
        "train_freq": 1,
        "gradient_steps": 4,
        "target_update_interval": 2_000,
        "exploration_fraction": 0.3,
        "exploration_initial_eps": 0.3,
        "exploration_final_eps": 0.03,
    }

    def make(
        self, env: VecEnv, learning_rate: LearningRate, *, seed: int, options: Mapping[str, Any]
    ) -> BaseAlgorithm:
        settings = {**self._DEFAULTS, **options}
        return MaskedDQN(
            RowQPolicy, env, learning_rate=learning_rate, seed=seed, device="cpu", **settings
        )

    def begin_with(self, model: BaseAlgorithm, policy: RowPolicy) -> None:
        assert isinstance(model.policy, RowQPolicy)
        model.policy.begin_with(policy)

    def policy_of(self, model: BaseAlgorithm) -> RowPolicy:
        assert isinstance(model.policy, RowQPolicy)
        return model.policy.as_row_policy()


LEARNERS: Mapping[str, Learner] = {"ppo": _PPO(), "dqn": _DQN()}


def find_learner(name: str) -> Learner:
    """Find a learner by its name.

    Raises:
        UnknownNameError: there is no such learner.
    """
    if name not in LEARNERS:
        raise UnknownNameError("learner", name, LEARNERS)
    return LEARNERS[name]
