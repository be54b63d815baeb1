"""Training of a policy on models of problems, by a choice of learners.

Training needs a thousand looks a second, a device gives a few: so training never waits for a
device. What a trained
policy then does on a real problem is in `agent`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

import cprune_rl  # noqa: F401  # registers the environments
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.rl.learners import LEARNERS, Learner
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.vec_env import ProblemVecEnv
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemSampler
from cprune_rl.envs.problem import Problem
from cprune_rl.errors import PolicyError, UnknownNameError, first_line

__all__ = ["Evaluation", "Trained", "TrainingSettings", "check_learner", "train_policy"]

_LONG = 10_000  # steps: fewer are done before processes have started
_MOST_WORKERS = 8  # the batches of more would be too small


@dataclass(frozen=True)
class TrainingSettings:
    """Training of a policy.

    Attributes:
        total_timesteps: environment steps.
        learner: a key of `learners.LEARNERS`.
        n_envs: environments stepped together.
        n_workers: processes that step them; 0 steps them in this one; None: one for each core, up
            to eight, if the training is long, in a program that guards its `__main__`.
        learning_rate: at the start; falls linearly to a tenth.
        max_rows: rows of the observation.
        max_steps: truncation of a training episode.
        eval_every: steps between two evaluations on held-out problems, and between two checkpoints.
        seed: of the environments, which draw the problems, and of the network.
        options: of the learner, over its own defaults.
    """

    total_timesteps: int = 100_000
    learner: str = "ppo"
    n_envs: int = 64
    n_workers: int | None = 0
    learning_rate: float = 5e-4
    max_rows: int = 32
    max_steps: int = 60
    eval_every: int = 20_000
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One greedily decoded roll-out on one held-out problem.

    Attributes:
        n_steps: that the policy had been trained for.
        problem: its name.
        log_gain: log of dense over found latency.
        accuracy_evaluations: that it asked for.
        tasks: that it looked at.
    """

    n_steps: int
    problem: str
    log_gain: float
    accuracy_evaluations: int
    tasks: int


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    Attributes:
        policy: the trained policy.
        algorithm: stable-baselines3's, with its optimiser.
        evaluations: on held-out problems, as it went.
        seconds: that it took, those before it was gone on with included.
    """

    policy: RowPolicy
    algorithm: BaseAlgorithm
    evaluations: tuple[Evaluation, ...] = ()
    seconds: float = 0.0


def train_policy(
    problems: ProblemSampler,
    settings: TrainingSettings,
    log_folder: Path | None = None,
    on_steps: Callable[[int], None] | None = None,
    held_out: Sequence[Callable[[], Problem]] = (),
    checkpoint: Path | None = None,
    start: RowPolicy | None = None,
    action_set: ActionSet | None = None,
) -> Trained:
    """Trains a row-shared policy on drawn problems.

    Args:
        problems: draws one for each episode; must be cheap (no device behind it), and picklable
            where there are workers.
        settings: of the training.
        log_folder: for TensorBoard events under `prune/`, `latency/` and `cache/`; None writes
            none.
        on_steps: told the number of steps done.
        held_out: opens problems on which the policy is tried as training goes on; never trained on.
        checkpoint: file that the training is saved to, and goes on from where it is there already;
            a learner's memory of
            steps is not in it, and is filled anew.
        start: policy whose weights are the beginning; a new one where not given.
        action_set: whose changes it learns to choose among; narrower groups where not given.

    Raises:
        UnknownNameError: there is no such learner.
        PolicyError: the checkpoint is damaged, or of another training.
    """
    check_learner(settings.learner)
    learner = LEARNERS[settings.learner]
    saved = (
        _saved(checkpoint, settings) if checkpoint is not None and checkpoint.is_file() else None
    )
    n_done = 0 if saved is None else int(saved["n_steps"])
    env = ProblemVecEnv(
        _Make(problems, settings.max_rows, settings.max_steps, action_set),
        settings.n_envs,
        _workers(settings),
        settings.seed + n_done * settings.n_envs,
    )
    n_threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # while steps are taken: a few rows at a time, and other processes at work
    try:
        model = learner.make(
            env,
            lambda left: settings.learning_rate * max(left, 0.1),
            settings.seed,
            settings.options,
        )
        if start is not None:
            learner.begin_with(model, start)
        if saved is not None:
            _restore(model, saved, str(checkpoint))
        model.set_logger(
            configure(
                str(log_folder) if log_folder else None, ["tensorboard"] if log_folder else []
            )
        )
        model.num_timesteps = n_done
        watch = _Watch(
            learner, settings, on_steps, held_out, checkpoint, n_done, saved, n_threads, action_set
        )
        watch.init_callback(model)
        if n_done < settings.total_timesteps:
            model.learn(
                settings.total_timesteps - n_done, callback=watch, reset_num_timesteps=False
            )
        watch.look()
        return Trained(learner.policy_of(model), model, tuple(watch.evaluations), watch.seconds)
    finally:
        torch.set_num_threads(n_threads)
        env.close()


def check_learner(name: str) -> None:
    """Raises UnknownNameError where there is no such learner."""
    if name not in LEARNERS:
        raise UnknownNameError("learner", name, LEARNERS)


def _workers(settings: TrainingSettings) -> int:
    if settings.n_workers is not None:
        return settings.n_workers
    return (
        min(
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1,
            _MOST_WORKERS,
        )
        if settings.total_timesteps >= _LONG
        else 0
    )


@dataclass(frozen=True)
class _Make:
    """Makes an environment, also in another process."""

    problems: ProblemSampler
    max_rows: int
    max_steps: int
    action_set: ActionSet | None

    def __call__(self) -> CPruneEnv:
        return CPruneEnv(self.problems, self.max_rows, self.max_steps, action_set=self.action_set)


class _Watch(BaseCallback):
    """Tells of the steps, writes what episodes came to, tries held-out problems and saves
    checkpoints.
    """

    def __init__(
        self,
        learner: Learner,
        settings: TrainingSettings,
        on_steps: Callable[[int], None] | None,
        held_out: Sequence[Callable[[], Problem]],
        checkpoint: Path | None,
        n_done: int,
        saved: Mapping[str, Any] | None,
        n_threads: int,
        action_set: ActionSet | None,
    ) -> None:
        super().__init__()
        self._action_set = action_set
        self._learner, self._settings, self._on_steps, self._held_out, self._checkpoint = (
            learner,
            settings,
            on_steps,
            held_out,
            checkpoint,
        )
        self._due = (n_done // settings.eval_every + 1) * settings.eval_every
        self.evaluations = [Evaluation(**e) for e in saved["evaluations"]] if saved else []
        self._started = time.perf_counter() - (saved["seconds"] if saved else 0.0)
        self._n_threads = n_threads

    @property
    def seconds(self) -> float:
        """Since the training began."""
        return time.perf_counter() - self._started

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._write_episode(info)
        if self._on_steps is not None:
            self._on_steps(self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:  # the update comes next, while nobody else is at work
        torch.set_num_threads(self._n_threads)

    def _on_rollout_start(self) -> None:  # after the update that the steps before it led to
        torch.set_num_threads(1)
        if self.num_timesteps >= self._due:
            self._due += self._settings.eval_every
            self.look()

    def look(self) -> None:
        """Tries the policy on each held-out problem, and saves the training."""
        n_steps = self.model.num_timesteps
        if not self.evaluations or self.evaluations[-1].n_steps < n_steps:
            policy = PolicyRollOut(self._learner.policy_of(self.model), action_set=self._action_set)
            for open_problem in self._held_out:
                problem = open_problem()
                found = policy.search(problem, Budget())
                gain = math.log(found.accepted[0].latency_s / found.best.latency_s)
                told = Evaluation(
                    n_steps,
                    problem.name,
                    gain,
                    int(found.cost["accuracy_evaluations"]),
                    int(found.cost["fresh_trials"] + found.cost["cached_trials"]),
                )
                self.evaluations.append(told)
                self.logger.record(f"latency/held_out_speedup/{problem.name}", math.exp(gain))
                self.logger.record(
                    f"prune/held_out_evaluations/{problem.name}", told.accuracy_evaluations
                )
                self.logger.record(f"cache/held_out_tasks/{problem.name}", told.tasks)
            self.logger.dump(n_steps)
        if self._checkpoint is not None:
            _save(
                self.model,
                self._checkpoint,
                self._settings,
                {"evaluations": [asdict(e) for e in self.evaluations], "seconds": self.seconds},
            )

    def _write_episode(self, info: dict[str, Any]) -> None:
        self.logger.record_mean("prune/episode_gain", info["episode"]["r"])
        self.logger.record_mean("prune/episode_steps", info["episode"]["l"])
        self.logger.record_mean("prune/accuracy", info["accuracy"])
        self.logger.record_mean("latency/speedup", info["dense_latency_s"] / info["latency_s"])
        self.logger.record_mean("cache/failed_looks", float("error_type" in info))


def _save(
    model: BaseAlgorithm, file: Path, settings: TrainingSettings, told: Mapping[str, Any]
) -> None:
    """Tensors and plain values, written aside and moved:

    a training that is killed leaves the one before.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".part")
    state = {"policy": model.policy.state_dict(), "optimizer": model.policy.optimizer.state_dict()}
    torch.save(
        {"n_steps": model.num_timesteps, "settings": _identity(settings), **state, **told}, aside
    )
    aside.replace(file)


def _saved(file: Path, settings: TrainingSettings) -> Mapping[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(file, weights_only=True)
        is_of_these = saved["settings"] == _identity(settings)
        _ = (
            saved["n_steps"] + 0,
            saved["seconds"] + 0.0,
            [Evaluation(**e) for e in saved["evaluations"]],
        )
    except Exception as error:  # torch raises errors of many kinds for a damaged file
        raise PolicyError(
            f"{file} is no checkpoint, or a damaged one: {_first_line(error)}"
        ) from error
    if not is_of_these:
        raise PolicyError(
            f"{file} is of a training with other settings: give another folder, or the same settings to go on with it"
        )
    return saved


def _restore(model: BaseAlgorithm, saved: Mapping[str, Any], name: str) -> None:
    try:
        model.policy.load_state_dict(saved["policy"])
        model.policy.optimizer.load_state_dict(saved["optimizer"])
    except Exception as error:  # torch raises errors of many kinds for tensors of other shapes
        raise PolicyError(f"{name} does not fit this network: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _identity(settings: TrainingSettings) -> dict[str, Any]:
    """What must be the same for a training to go on; how long it is and who steps it may change."""
    told = asdict(settings)
    for name in ("total_timesteps", "n_workers", "eval_every"):
        del told[name]
    return told
