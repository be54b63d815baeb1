"""Training of a policy: MaskablePPO on models of problems.

Training needs a thousand looks a second, a device gives a few: so training never waits for a device. What a trained
policy then does on a real problem is in `agent`.
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
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemSampler

__all__ = ["PPOSettings", "train_policy"]


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
