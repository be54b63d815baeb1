"""The agent: MaskablePPO on a model of the problem, then one roll-out against the real one.

Training needs a thousand looks a second, a device gives a few: so training never waits for a device,
and deployment is one greedy-decoded roll-out in `cprune_rl/CPrune-v0`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.agents.policy import RowPolicy
from cprune_rl.agents.searcher import Budget, Meter, OnStep, SearchResult, SearchStep
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemSampler
from cprune_rl.envs.observation import STEP_COUNTS
from cprune_rl.envs.problem import Problem

__all__ = ["PPOAgent", "PPOSettings", "train_policy"]


@dataclass(frozen=True)
class PPOSettings:
    """Training of a policy.

    Attributes:
        total_timesteps: environment steps.
        n_envs: environments stepped together.
        n_steps: steps of each between updates.
        batch_size: of a gradient step.
        n_epochs: passes over the steps of an update.
        learning_rate: at the start; falls linearly to a tenth.
        max_rows: rows of the observation.
        max_steps: truncation of a training episode.
        seed: of the problems, the environments and the network.
    """

    total_timesteps: int = 100_000
    n_envs: int = 64
    n_steps: int = 32
    batch_size: int = 512
    n_epochs: int = 3
    learning_rate: float = 5e-4
    max_rows: int = 32
    max_steps: int = 60
    seed: int = 0


class _Progress(BaseCallback):
    def __init__(self, on_steps: Callable[[int], None]) -> None:
        super().__init__()
        self._on_steps = on_steps

    def _on_step(self) -> bool:
        self._on_steps(self.num_timesteps)
        return True


def train_policy(problems: ProblemSampler, settings: PPOSettings, log_folder: Path | None = None, on_steps: Callable[[int], None] | None = None) -> MaskablePPO:
    """Trains a row-shared policy on drawn problems.

    Args:
        problems: draws one for each episode; must be cheap (no device behind it).
        settings: of the training.
        log_folder: for TensorBoard events; None writes none.
        on_steps: told the number of steps done.

    Returns:
        The model; `model.policy` is a `RowPolicy`.
    """

    def make() -> gymnasium.Env[Any, Any]:
        return Monitor(CPruneEnv(problems, settings.max_rows, settings.max_steps))

    env = DummyVecEnv([make] * settings.n_envs)
    env.seed(settings.seed)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are small: a second thread costs more than it brings
    try:
        model = MaskablePPO(
            RowPolicy,
            env,
            learning_rate=lambda left: settings.learning_rate * max(left, 0.1),
            n_steps=settings.n_steps,
            batch_size=settings.batch_size,
            n_epochs=settings.n_epochs,
            gamma=1.0,
            gae_lambda=0.95,
            ent_coef=0.003,
            seed=settings.seed,
            device="cpu",
        )
        model.set_logger(configure(str(log_folder) if log_folder else None, ["tensorboard"] if log_folder else []))
        model.learn(settings.total_timesteps, callback=None if on_steps is None else _Progress(on_steps))
    finally:
        torch.set_num_threads(n_threads)
        env.close()
    return model


class PPOAgent:
    """Rolls a trained policy out, greedily decoded (see `searcher.Searcher`).

    Args:
        policy: trained before; reads tables of `policy.observation_space.shape[0]` rows.
        max_steps: truncation: far more than a roll-out takes, so that it never binds.
        max_rejections: the roll-out ends after so many.
    """

    name = "agent"

    def __init__(self, policy: RowPolicy, max_steps: int = 200, max_rejections: int = 8) -> None:
        self._policy, self._max_steps, self._max_rejections = policy, max_steps, max_rejections

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """One roll-out in `cprune_rl/CPrune-v0`."""
        max_rows = self._policy.observation_space.shape[0]
        meter = Meter(problem, budget, on_step)
        env = gymnasium.make("cprune_rl/CPrune-v0", problem=problem, max_rows=max_rows, max_steps=self._max_steps, max_rejections=self._max_rejections, disable_env_checker=True)
        core: CPruneEnv = env.unwrapped  # type: ignore[assignment]  # registered with this class
        obs, info = env.reset(seed=0)
        meter.start(info["latency_s"])
        done = False
        while not done and not meter.is_spent:
            action, _ = self._policy.predict(obs, action_masks=core.action_masks(), deterministic=True)
            move = core.move(int(action))
            what = "stop" if move is None else self._describe(core, move.row, move.width)
            obs, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            if move is not None:
                accuracy = None if "error_type" in info else info["tried_accuracy"]
                meter.record(SearchStep(move.plan, what, info["tried_latency_s"], accuracy, info["accepted"]))
        return meter.result(self.name)

    @staticmethod
    def _describe(env: CPruneEnv, row: int, width: int) -> str:
        first = env.state.table.rows[row].subgraphs[0]
        return f"{env.problem.network.subgraphs[first].name} x{STEP_COUNTS[width]}"
