"""AMC (He et al., ECCV 2018): a DDPG agent says, layer by layer, how much to keep.

The plan is measured when every layer has its width. Layers are coupled groups, in the order of
execution. The reward is the accuracy-guaranteed one, with the device's latency in the place of
FLOPs: the log speed-up of a plan that holds the floor, else by how much it misses it.

As published: 300-wide networks of two layers, batches of 64 from the last 2,000 steps, exploration
by a truncated normal. Other than published: 200 episodes, 30 of them at random, instead of 400 and
100; the deviation of 0.5 decays by 0.98 each episode instead of 0.95, which found faster plans; no
moving average is subtracted from rewards.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box
from numpy.typing import NDArray
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import ActionNoise

from cprune_rl.agents.core.session import SearchSession, SessionSearcher

__all__ = ["AMC", "AMCSettings"]

_N_FEATURES = 12
_BOUND = 10.0  # of features
_LEAST_REWARD = -3.0  # slacks that a plan misses the floor by, which is as bad as it gets
_LEAST_SLACK = 1e-4  # in accuracy
_MEMORY = 2000  # steps
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class AMCSettings:
    """How the agent learns.

    Attributes:
        episodes: at most, each with one measurement.
        random_episodes: of them before it learns.
        sigma: deviation of the exploration, in kept share of what may go.
        decay: of that, each episode.
        width: of the two layers of actor and critic.
        learning_rate: of the critic.
        actor_share: the actor's learning rate, as a share of that.
    """

    episodes: int = 200
    random_episodes: int = 30
    sigma: float = 0.5
    decay: float = 0.98
    width: int = 300
    learning_rate: float = 1e-3
    actor_share: float = 0.1


@dataclass(frozen=True)
class AMC(SessionSearcher):
    """Trains an agent on one problem alone; whatever it tried is an answer.

    Attributes:
        settings: of the agent.
        seed: of the networks and of the exploration.
    """

    settings: AMCSettings = field(default_factory=AMCSettings)
    seed: int = 0

    name = "amc"

    def run(self, session: SearchSession) -> None:
        """Train the agent until the budget is spent."""
        settings = self.settings
        n_groups = len(session.problem.network.groups)
        if not n_groups or not math.isfinite(session.dense_s) or session.is_spent:
            return
        model = _Explorer(
            "MlpPolicy",
            _LayerByLayer(session),
            learning_rate=settings.learning_rate,
            buffer_size=_MEMORY,
            learning_starts=settings.random_episodes * n_groups,
            batch_size=_BATCH,
            tau=0.01,
            gamma=1.0,
            # Every step of an episode learns from its reward at once, as in the authors' code.
            n_steps=n_groups,
            train_freq=(1, "episode"),
            gradient_steps=-1,
            policy_kwargs={"net_arch": [settings.width, settings.width]},
            seed=self.seed,
            device="cpu",
        )
        model.settings = settings
        model.learn(settings.episodes * n_groups, callback=lambda *_: not session.is_spent)


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
        greedy, _ = self.predict(self._last_obs, deterministic=True)  # type: ignore[arg-type]  # there is one
        mean = self.policy.scale_action(greedy)
        n_learnt = max(self._episode_num - self.settings.random_episodes, 0)
        # Scaled actions are in [-1, 1], which is twice as wide as what the deviation is stated in.
        sigma = 2 * self.settings.sigma * self.settings.decay**n_learnt
        # SB3 itself draws from this generator: it seeds it.
        drawn = np.random.normal(mean, sigma)
        while (is_outside := np.abs(drawn) > 1).any():
            drawn = np.where(is_outside, np.random.normal(mean, sigma), drawn)
        return self.policy.unscale_action(drawn), drawn


class _LayerByLayer(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One group a step; the plan is tried when every group has its width.

    An action is a share from the narrowest width to the dense one.
    """

    def __init__(self, session: SearchSession) -> None:
        self.action_space = Box(0.0, 1.0, (1,), np.float32)
        self.observation_space = Box(-_BOUND, _BOUND, (_N_FEATURES,), np.float32)
        self._session = session
        self._network = session.problem.network
        self._writers = [self._first_writer(g) for g in range(len(self._network.groups))]
        self._order = sorted(range(len(self._writers)), key=lambda g: self._writers[g])
        self._plan = self._network.dense
        self._at = 0
        self._action = 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start from the dense network."""
        super().reset(seed=seed)
        self._plan = self._network.dense
        self._at = 0
        self._action = 1.0
        return self._observe(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Give the next group its width."""
        group = self._order[self._at]
        widths = self._session.widths[group]
        self._action = float(action[0])
        wanted = widths[0] + self._action * (widths[-1] - widths[0])
        self._plan = self._plan.with_width(group, min(widths, key=lambda w: abs(w - wanted)))
        self._at += 1
        is_over = self._at == len(self._order)
        observation = self._observe()
        reward = self._reward() if is_over else 0.0
        return observation, reward, is_over, False, {}

    def _first_writer(self, group: int) -> int:
        """The first subgraph that writes a group; the last one of all where none does."""
        for subgraph, written in enumerate(self._network.written_groups):
            if group in written:
                return subgraph
        return len(self._network.subgraphs) - 1

    def _reward(self) -> float:
        session = self._session
        step = session.try_once(self._plan, f"episode {len(session.history) + 1}")
        if step.accuracy is None:
            return _LEAST_REWARD
        if step.accepted:
            return math.log(session.dense_s / step.latency_s)
        missing = step.accuracy - session.problem.floor
        return max(missing / max(session.problem.slack, _LEAST_SLACK), _LEAST_REWARD)

    def _observe(self) -> NDArray[np.float32]:
        """Describe a layer as AMC's state does.

        The state says which layer it is, its shape, its share of the cost, what is gone already,
        what is still to come, and the last action.
        """
        problem = self._session.problem
        network = self._network
        group = self._order[min(self._at, len(self._order) - 1)]
        channels = network.groups[group].channels
        half = network.dense.with_width(group, max(channels // 2, 1))
        operator = network.subgraphs[self._writers[group]].template.operator
        slack = max(problem.slack, _LEAST_SLACK)
        costs = problem.latency.predict(network.workloads(self._plan))
        shares = np.array([c.latency_s for c in costs]) / self._session.dense_s
        to_come: set[int] = set()
        for later in self._order[self._at :]:
            to_come.update(network.shaped_by((later,)))
        features = [
            self._at / len(self._order),
            math.log2(channels) / 8,
            len(self._session.widths[group]) / 32,
            operator.kernel / 3,
            operator.stride / 2,
            math.log2(operator.height) / 8,
            shares[list(network.shaped_by((group,)))].sum(),
            shares.sum(),
            shares[sorted(to_come)].sum(),
            math.log1p(problem.predicted_loss(half) / slack),
            1 - problem.predicted_loss(self._plan) / slack,
            self._action,
        ]
        finite = np.nan_to_num(features, nan=_BOUND, posinf=_BOUND, neginf=-_BOUND)
        return np.asarray(np.clip(finite, -_BOUND, _BOUND), np.float32)
