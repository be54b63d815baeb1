"""Trains the policies of a run on a model of its problem."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from cprune_rl.agents.policies import open_policy
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.training import TrainingMonitor, TrainingSettings, train_policy
from cprune_rl.core.network import Network
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings, ProblemSource
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["PolicySettings", "RunPolicy", "TrainedPolicy", "n_rows", "train_on_model"]


@dataclass(frozen=True, kw_only=True)
class PolicySettings:
    """Where a policy comes from, and how it is trained.

    Attributes:
        given: name or folder of a policy that is taken as it is.
        init: name or folder of the policy that a training begins with.
        total_timesteps: environment steps.
        start_ratios: kept ratios that episodes begin with; empty to begin with the dense network.
        seed: of the training.
    """

    given: str | None
    init: str | None
    total_timesteps: int
    start_ratios: tuple[float, ...]
    seed: int


@dataclass(frozen=True)
class RunPolicy:
    """A policy, and the seconds of training that a search with it is charged with."""

    policy: RowPolicy
    train_s: float


@dataclass(frozen=True, kw_only=True)
class TrainedPolicy:
    """A policy that a run has trained.

    Attributes:
        algorithm: stable-baselines3's, with its optimiser.
        card: what it was trained on, and how long.
    """

    policy: RowPolicy
    algorithm: BaseAlgorithm
    card: Mapping[str, Any]


def n_rows(network: Network) -> int:
    """Give the rows of an observation that every table of a network fits into."""
    return max(TrainingSettings.max_rows, len(network.subgraphs))


def train_on_model(
    settings: PolicySettings,
    context: RunContext,
    action_set: ActionSet,
    log_folder: Path,
    progress: ProgressLog,
) -> TrainedPolicy:
    """Train a policy on variations of a run's problem, in a model of it.

    Args:
        action_set: what the policy chooses among.
        log_folder: for TensorBoard events.
    """
    network = context.network
    source = ProblemSource(
        name=network.name,
        network=network,
        interpolator=context.backend.interpolator,
        loss_model=context.calibration.loss_model,
        dense_accuracy=context.dense.accuracy,
        descriptor=context.backend.descriptor,
    )
    drawn = GeneratorSettings(start_ratios=settings.start_ratios)
    problems = GeneratedProblems.from_source(source, drawn)
    training = TrainingSettings(
        total_timesteps=settings.total_timesteps, seed=settings.seed, max_rows=n_rows(network)
    )
    start = None if settings.init is None else open_policy(settings.init, training.max_rows)
    whose = "the mapping's agent" if isinstance(action_set, SchemeActions) else "the agent"
    started = time.perf_counter()
    with progress.track(
        f"Training {whose} on a model of the problem", training.total_timesteps
    ) as advance:
        monitor = TrainingMonitor(log_folder=log_folder, on_steps=advance)
        trained = train_policy(
            problems, training, monitor=monitor, start=start, action_set=action_set
        )
    card = {
        "network": network.name,
        "data": context.trained_model.trainer.name,
        "device": context.backend.device_name,
        "total_timesteps": settings.total_timesteps,
        "seed": settings.seed,
        "init": settings.init,
        "train_s": round(time.perf_counter() - started, 1),
    }
    return TrainedPolicy(policy=trained.policy, algorithm=trained.algorithm, card=card)
