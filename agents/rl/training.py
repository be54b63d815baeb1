"""Training of a policy on models of problems, by a choice of learners.

Training needs a thousand answers a second and a device gives a few, so training never waits for a
device. `planner.agent` has what a trained policy then does on a real problem.
"""

from __future__ import annotations

import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.rl.checkpoint import Checkpoint, HeldOutResult
from cprune_rl.agents.rl.learners import Learner, find_learner
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.rl.vec_env import ProblemVecEnv
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.cprune_env import CPruneEnv, ProblemSampler
from cprune_rl.envs.problem import Problem

__all__ = ["Trained", "TrainingMonitor", "TrainingSettings", "train_policy"]

_LONG = 10_000  # steps: fewer are done before processes have started
_MAX_WORKERS = 8  # the batches of more would be too small
_LEAST_RATE = 0.1  # of the learning rate, at the end
_MAY_CHANGE = ("total_timesteps", "n_workers", "eval_every")  # when a training goes on


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a policy is trained.

    Attributes:
        total_timesteps: environment steps.
        learner: a key of `learners.LEARNERS`.
        n_envs: environments stepped together.
        n_workers: processes that step them; 0 steps them in this one. None: one for each core, up
            to eight, if the training is long; the program must guard its `__main__`.
        learning_rate: at the start; falls linearly to a tenth.
        max_rows: rows of the observation.
        max_steps: truncation of a training episode.
        eval_every: steps between two trials on held-out problems, and between two checkpoints.
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

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on."""
        return {name: value for name, value in asdict(self).items() if name not in _MAY_CHANGE}

    def rate_at(self, left: float) -> float:
        """Give the learning rate when a share of the training is left."""
        return self.learning_rate * max(left, _LEAST_RATE)

    def count_workers(self) -> int:
        """Count the processes that step the environments."""
        if self.n_workers is not None:
            return self.n_workers
        if self.total_timesteps < _LONG:
            return 0
        has_affinity = hasattr(os, "sched_getaffinity")
        n_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
        return min(n_cores, _MAX_WORKERS)


@dataclass(frozen=True, kw_only=True)
class TrainingMonitor:
    """Who is told of a training, and where it is kept.

    Attributes:
        log_folder: for TensorBoard events under `prune/`, `latency/` and `cache/`; None writes
            none.
        on_steps: called with the number of steps done.
        held_out: opens problems on which the policy is tried as training goes on; never trained on.
        checkpoint: file that the training is saved to, and goes on from where it is there already.
    """

    log_folder: Path | None = None
    on_steps: Callable[[int], None] | None = None
    held_out: Sequence[Callable[[], Problem]] = ()
    checkpoint: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training gives.

    Attributes:
        policy: the trained policy.
        algorithm: stable-baselines3's, with its optimizer.
        held_out: results on held-out problems, as it went.
        seconds: that it took, those before it was gone on with included.
    """

    policy: RowPolicy
    algorithm: BaseAlgorithm
    held_out: tuple[HeldOutResult, ...] = ()
    seconds: float = 0.0


def train_policy(
    problems: ProblemSampler,
    settings: TrainingSettings,
    *,
    monitor: TrainingMonitor | None = None,
    start: RowPolicy | None = None,
    action_set: ActionSet | None = None,
) -> Trained:
    """Train a row-shared policy on drawn problems.

    Args:
        problems: draws one for each episode; must be cheap (no device behind it), and picklable
            where there are workers.
        settings: of the training.
        monitor: is told of it; nobody where not given.
        start: policy whose weights are the beginning; a new one where not given.
        action_set: that it learns to choose from; narrower groups where not given.

    Raises:
        UnknownNameError: there is no such learner.
        PolicyError: the checkpoint is damaged, or of another training.
    """
    learner = find_learner(settings.learner)
    monitor = monitor or TrainingMonitor()
    saved = None
    if monitor.checkpoint is not None and monitor.checkpoint.is_file():
        saved = Checkpoint.read(monitor.checkpoint, settings.identity)
    n_done = 0 if saved is None else saved.n_steps
    env = _open_envs(problems, settings, action_set, n_done)
    watch = _Watch(learner, settings, monitor, saved=saved, action_set=action_set)
    # While steps are taken: a few rows at a time, and other processes at work.
    torch.set_num_threads(1)
    try:
        model = learner.make(env, settings.rate_at, seed=settings.seed, options=settings.options)
        if start is not None:
            learner.begin_with(model, start)
        if saved is not None and monitor.checkpoint is not None:
            saved.restore(model, monitor.checkpoint)
        formats = ["tensorboard"] if monitor.log_folder else []
        model.set_logger(configure(str(monitor.log_folder) if formats else None, formats))
        model.num_timesteps = n_done
        watch.init_callback(model)
        n_left = settings.total_timesteps - n_done
        if n_left > 0:
            model.learn(n_left, callback=watch, reset_num_timesteps=False)
        watch.try_held_out()
        return Trained(
            policy=learner.policy_of(model),
            algorithm=model,
            held_out=tuple(watch.results),
            seconds=watch.seconds,
        )
    finally:
        torch.set_num_threads(watch.n_threads)
        env.close()


def _open_envs(
    problems: ProblemSampler, settings: TrainingSettings, action_set: ActionSet | None, n_done: int
) -> ProblemVecEnv:
    """Open the environments; a training that goes on draws other problems than it had."""
    make_env = functools.partial(
        CPruneEnv,
        problems,
        max_rows=settings.max_rows,
        max_steps=settings.max_steps,
        action_set=action_set,
    )
    first_seed = settings.seed + n_done * settings.n_envs
    return ProblemVecEnv(make_env, settings.n_envs, settings.count_workers(), seed=first_seed)


class _Watch(BaseCallback):
    """Tells of the steps, logs episodes, tries held-out problems and saves checkpoints.

    Attributes:
        results: on held-out problems.
        n_threads: of torch while the network is updated; steps are taken with one.
    """

    def __init__(
        self,
        learner: Learner,
        settings: TrainingSettings,
        monitor: TrainingMonitor,
        *,
        saved: Checkpoint | None,
        action_set: ActionSet | None,
    ) -> None:
        super().__init__()
        self._learner = learner
        self._settings = settings
        self._monitor = monitor
        self._action_set = action_set
        n_done = 0 if saved is None else saved.n_steps
        self._next_trial = (n_done // settings.eval_every + 1) * settings.eval_every
        self.results = [] if saved is None else list(saved.held_out)
        self._started_s = time.perf_counter() - (0.0 if saved is None else saved.seconds)
        self.n_threads = torch.get_num_threads()

    @property
    def seconds(self) -> float:
        """Since the training began."""
        return time.perf_counter() - self._started_s

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                self._log_episode(info)
        if self._monitor.on_steps is not None:
            self._monitor.on_steps(self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        # The update comes next, while nobody else is at work.
        torch.set_num_threads(self.n_threads)

    def _on_rollout_start(self) -> None:
        torch.set_num_threads(1)
        # After the update that the steps before it led to.
        if self.num_timesteps >= self._next_trial:
            self._next_trial += self._settings.eval_every
            self.try_held_out()

    def try_held_out(self) -> None:
        """Try the policy on each held-out problem, and save the training."""
        n_steps = self.model.num_timesteps
        if not self.results or self.results[-1].n_steps < n_steps:
            walk = PolicyRollOut(self._learner.policy_of(self.model), action_set=self._action_set)
            for open_problem in self._monitor.held_out:
                self._try(walk, open_problem())
            self.logger.dump(n_steps)
        if self._monitor.checkpoint is not None:
            checkpoint = Checkpoint(
                n_steps=n_steps,
                settings=self._settings.identity,
                policy=self.model.policy.state_dict(),
                optimizer=self.model.policy.optimizer.state_dict(),
                held_out=tuple(self.results),
                seconds=self.seconds,
            )
            checkpoint.write(self._monitor.checkpoint)

    def _try(self, walk: PolicyRollOut, problem: Problem) -> None:
        search = walk.search(problem, Budget())
        result = HeldOutResult(
            n_steps=self.model.num_timesteps,
            problem=problem.name,
            log_gain=math.log(search.accepted[0].latency_s / search.best.latency_s),
            accuracy_evaluations=int(search.cost["accuracy_evaluations"]),
            tasks=int(search.cost["fresh_trials"] + search.cost["cached_trials"]),
        )
        self.results.append(result)
        speedup = math.exp(result.log_gain)
        self.logger.record(f"latency/held_out_speedup/{problem.name}", speedup)
        evaluations = result.accuracy_evaluations
        self.logger.record(f"prune/held_out_evaluations/{problem.name}", evaluations)
        self.logger.record(f"cache/held_out_tasks/{problem.name}", result.tasks)

    def _log_episode(self, info: dict[str, Any]) -> None:
        self.logger.record_mean("prune/episode_gain", info["episode"]["r"])
        self.logger.record_mean("prune/episode_steps", info["episode"]["l"])
        self.logger.record_mean("prune/accuracy", info["accuracy"])
        self.logger.record_mean("latency/speedup", info["dense_latency_s"] / info["latency_s"])
        self.logger.record_mean("cache/failed_looks", float("error_type" in info))
