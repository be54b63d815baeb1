"""AMC (He et al., ECCV 2018):

an agent walks the network layer by layer and says how much of each to keep; DDPG, a true look at
the end.

Layers are coupled groups, in the order of execution. The reward is the accuracy-guaranteed one,
with the device's latency in the place of
FLOPs: the log speed-up of a plan that holds the floor, else by how much it misses it. As published:
    300-wide networks of two layers,
batches of 64 from the last 2,000 steps, exploration by a truncated normal. Other than published:
200 episodes, 30 of them at random, instead of
400 and 100; the deviation of 0.5 decays by 0.98 each episode instead of 0.95, which found faster
plans; no moving average is subtracted from rewards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import ActionNoise

from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["AMC", "AMCSettings"]

_N_FEATURES = 12
_LEAST_REWARD = -3.0  # slacks that a plan misses the floor by, which is as bad as it gets
_LEAST_SLACK = 1e-4  # in accuracy


@dataclass(frozen=True)
class AMCSettings:
    """How the agent learns.

    Attributes:
        episodes: true looks at most.
        random_episodes: of them before it learns.
        sigma: deviation of the exploration, in kept share of what may go.
        decay: of that, each episode.
        width: of the two layers of actor and critic.
        learning_rate: of the critic.
        actor_share: the actor's learning rate, as a share of that.
        seed: of the networks and of the exploration.
    """

    episodes: int = 200
    random_episodes: int = 30
    sigma: float = 0.5
    decay: float = 0.98
    width: int = 300
    learning_rate: float = 1e-3
    actor_share: float = 0.1
    seed: int = 0


class AMC:
    """See the module (and `searcher.Searcher`).

    Args:
        settings: of the agent.
    """

    name = "amc"

    def __init__(self, settings: AMCSettings | None = None) -> None:
        self._settings = settings or AMCSettings()

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Trains an agent on the problem alone;

        what it looked at on the way is the answer (see `searcher.Searcher`).
        """
        looks, settings = Looks(problem, budget, on_step), self._settings
        n_groups = len(problem.network.groups)
        if n_groups and math.isfinite(looks.dense_s) and not looks.session.is_spent:
            model = _Explorer(
                "MlpPolicy",
                _LayerByLayer(looks),
                learning_rate=settings.learning_rate,
                buffer_size=2000,
                learning_starts=settings.random_episodes * n_groups,
                batch_size=64,
                tau=0.01,
                gamma=1.0,
                # so that every step of an episode learns from its reward at once, as the authors'
                # code has it
                n_steps=n_groups,
                train_freq=(1, "episode"),
                gradient_steps=-1,
                policy_kwargs={"net_arch": [settings.width, settings.width]},
                seed=settings.seed,
                device="cpu",
            )
            model.settings = settings
            model.learn(
                settings.episodes * n_groups, callback=lambda *_: not looks.session.is_spent
            )
        return looks.session.result(self.name)


class _Explorer(DDPG):
    """DDPG that explores by a normal around what it would do, truncated to what it may do."""

    settings = AMCSettings()

    def _update_learning_rate(
        self, optimizers: list[torch.optim.Optimizer] | torch.optim.Optimizer
    ) -> None:
        super()._update_learning_rate(optimizers)
        for group in self.actor.optimizer.param_groups:
            group["lr"] *= self.settings.actor_share

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.num_timesteps < learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        meant = self.policy.scale_action(self.predict(self._last_obs, deterministic=True)[0])  # type: ignore[arg-type]  # there is one
        sigma = (
            2
            * self.settings.sigma
            * self.settings.decay ** max(self._episode_num - self.settings.random_episodes, 0)
        )  # scaled actions are in [-1, 1]
        tried = np.random.normal(meant, sigma)  # as SB3 itself does: it seeds this generator
        while (outside := np.abs(tried) > 1).any():
            tried = np.where(outside, np.random.normal(meant, sigma), tried)
        return self.policy.unscale_action(tried), tried


class _LayerByLayer(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One group a step; the plan is looked at when every group has its width."""

    def __init__(self, looks: Looks) -> None:
        self.action_space = Box(
            0.0, 1.0, (1,), np.float32
        )  # from the narrowest width to the dense one
        self.observation_space = Box(-10.0, 10.0, (_N_FEATURES,), np.float32)
        self._looks = looks
        network = looks.problem.network
        n_subgraphs = len(network.subgraphs)
        self._writers = [
            next(
                (s for s, written in enumerate(network.written_groups) if g in written),
                n_subgraphs - 1,
            )
            for g in range(len(network.groups))
        ]
        self._order = sorted(range(len(network.groups)), key=lambda g: self._writers[g])
        self._plan, self._at, self._action = network.dense, 0, 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts from the dense network."""
        super().reset(seed=seed)
        self._plan, self._at, self._action = self._looks.problem.network.dense, 0, 1.0
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Gives the next group its width."""
        group, self._action = self._order[self._at], float(action[0])
        widths = self._looks.widths[group]
        wanted = widths[0] + self._action * (widths[-1] - widths[0])
        self._plan = self._plan.with_width(group, min(widths, key=lambda w: abs(w - wanted)))
        self._at += 1
        done = self._at == len(self._order)
        return self._observe(), self._reward() if done else 0.0, done, False, {}

    def _reward(self) -> float:
        looks = self._looks
        step = looks.take(self._plan, f"episode {len(looks.session.history) + 1}")
        if step.accuracy is None:
            return _LEAST_REWARD
        if not step.accepted:
            return max(
                (step.accuracy - looks.problem.floor) / max(looks.slack, _LEAST_SLACK),
                _LEAST_REWARD,
            )
        return math.log(looks.dense_s / step.latency_s)

    def _observe(self) -> NDArray[np.float32]:
        """What AMC's state says of a layer:

        which it is, its shape, its share of the cost, what is gone already, what is still to come,
        the last action.
        """
        looks, network = self._looks, self._looks.problem.network
        group = self._order[min(self._at, len(self._order) - 1)]
        half = network.dense.with_width(group, max(network.groups[group].channels // 2, 1))
        operator = network.subgraphs[self._writers[group]].template.operator
        slack = max(looks.slack, _LEAST_SLACK)
        costs = np.array(
            [c.latency_s for c in looks.problem.latency.predict(network.workloads(self._plan))]
        )
        shares = costs / looks.dense_s
        to_come = sorted({s for g in self._order[self._at :] for s in network.shaped_by((g,))})
        features = [
            self._at / len(self._order),
            math.log2(network.groups[group].channels) / 8,
            len(looks.widths[group]) / 32,
            operator.kernel / 3,
            operator.stride / 2,
            math.log2(operator.height) / 8,
            shares[list(network.shaped_by((group,)))].sum(),
            shares.sum(),
            shares[to_come].sum(),
            math.log1p(looks.predicted_loss(half) / slack),
            1 - looks.predicted_loss(self._plan) / slack,
            self._action,
        ]
        return np.asarray(
            np.clip(np.nan_to_num(features, nan=10.0, posinf=10.0, neginf=-10.0), -10.0, 10.0),
            np.float32,
        )
