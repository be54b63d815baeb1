"""Many environments at once: stepped in batches, in this process or in several.

A step is too short for a message of its own and too long for one core. Observations, masks and what
ended come back in one message for a whole batch.
"""

from __future__ import annotations

import dataclasses
import gc
import itertools
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cprune_rl.envs.cprune_env import CPruneEnv

__all__ = ["BatchStep", "BatchedEnvs", "MakeEnv"]

MakeEnv = Callable[[], CPruneEnv]
_End = tuple[NDArray[np.float32], dict[str, Any]]
_PATIENCE_S = 10.0  # for a process that was told to end


@dataclass(frozen=True, kw_only=True)
class BatchStep:
    """What a batch of `n` environments gives after a step or a reset.

    Where an episode ended, the environment has begun the next one.

    Attributes:
        observations: `(n, max_rows, n_features)`.
        masks: `(n, n_actions)` legal actions.
        rewards: `(n,)`.
        terminated: `(n,)`.
        truncated: `(n,)`.
        latency_s: `(n,)` estimate of each plan.
        dense_latency_s: `(n,)` estimate of the plan that each episode started from.
        accuracy: `(n,)` of each plan.
        ended: of each environment whose episode ended with this step, the last observation and
            info; else None.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    latency_s: NDArray[np.float64]
    dense_latency_s: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    ended: list[_End | None]

    @classmethod
    def join(cls, steps: Sequence[BatchStep]) -> BatchStep:
        """Put the steps of several batches together."""
        values: dict[str, Any] = {
            field.name: np.concatenate([getattr(step, field.name) for step in steps])
            for field in dataclasses.fields(cls)
            if field.name != "ended"
        }
        ended = itertools.chain.from_iterable(step.ended for step in steps)
        return cls(ended=list(ended), **values)


class _Batch:
    """Environments of one process, stepped one after the other."""

    def __init__(self, make: MakeEnv, n_envs: int) -> None:
        self.envs = [make() for _ in range(n_envs)]

    def reset(self, seeds: Sequence[int | None], options: Mapping[str, Any] | None) -> BatchStep:
        """Start an episode in each environment."""
        observations = [
            env.reset(seed=seed, options=options)[0]
            for env, seed in zip(self.envs, seeds, strict=True)
        ]
        n_envs = len(self.envs)
        ends = np.zeros((2, n_envs), bool)
        return self._gather(observations, np.zeros(n_envs), ends, [None] * n_envs)

    def step(self, actions: NDArray[np.int64]) -> BatchStep:
        """Take a step in each environment."""
        n_envs = len(self.envs)
        observations = []
        rewards = np.zeros(n_envs)
        ends = np.zeros((2, n_envs), bool)
        ended: list[_End | None] = [None] * n_envs
        for at, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observation, rewards[at], terminated, truncated, info = env.step(int(action))
            ends[:, at] = terminated, truncated
            if terminated or truncated:
                ended[at] = (observation, info)
                observation, _ = env.reset()
            observations.append(observation)
        return self._gather(observations, rewards, ends, ended)

    def render(self) -> list[Any]:
        """Render each environment."""
        return [env.render() for env in self.envs]

    def close(self) -> None:
        """Close each environment."""
        for env in self.envs:
            env.close()

    def _gather(
        self,
        observations: Sequence[NDArray[np.float32]],
        rewards: NDArray[np.float64],
        ends: NDArray[np.bool_],
        ended: list[_End | None],
    ) -> BatchStep:
        states = [env.state for env in self.envs]
        return BatchStep(
            observations=np.stack(observations),
            masks=np.stack([env.action_masks() for env in self.envs]),
            rewards=rewards,
            terminated=ends[0],
            truncated=ends[1],
            latency_s=np.array([state.table.latency_s for state in states]),
            dense_latency_s=np.array([state.start_latency_s for state in states]),
            accuracy=np.array([state.accuracy for state in states]),
            ended=ended,
        )


def _serve(pipe: Connection, make: MakeEnv, n_envs: int) -> None:
    """Live as a process: answer messages until None or the end of the pipe."""
    try:
        batch = _Batch(make, n_envs)
        # Problems are remembered for good. Collecting garbage among them took a sixth of the time.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        while (message := pipe.recv()) is not None:
            name, *arguments = message
            pipe.send(getattr(batch, name)(*arguments))
        batch.close()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # the asker is gone, or everybody was told to end
    except Exception as error:  # raised again by whoever asked
        pipe.send(error)
    finally:
        pipe.close()


class BatchedEnvs:
    """Environments in one process or several, with one interface.

    Args:
        make: makes an environment; it must be picklable where there are other processes.
        n_envs: number of environments.
        n_workers: other processes; 0 steps all environments in this one.
        preload: module that other processes import once, not each of them anew.
    """

    def __init__(
        self, make: MakeEnv, n_envs: int, n_workers: int = 0, preload: str = __name__
    ) -> None:
        self.n_envs = n_envs
        self._batch: _Batch | None = None
        self._actions: NDArray[np.int64] = np.zeros(n_envs, np.int64)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        # of each process the positions of its environments
        self._parts: list[slice] = []
        if n_workers:
            sample = make()
            self._start(make, min(n_workers, n_envs), preload)
        else:
            self._batch = _Batch(make, n_envs)
            sample = self._batch.envs[0]
        self.observation_space = sample.observation_space
        self.action_space = sample.action_space

    def _start(self, make: MakeEnv, n_workers: int, preload: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([preload])
        for part in np.array_split(np.arange(self.n_envs), n_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make, len(part)), daemon=True)
            process.start()
            theirs.close()
            self._parts.append(slice(int(part[0]), int(part[-1]) + 1))
            self._pipes.append(ours)
            self._processes.append(process)

    def reset(
        self, seeds: Sequence[int | None], options: Mapping[str, Any] | None = None
    ) -> BatchStep:
        """Start an episode in each environment.

        Args:
            seeds: of each environment; None goes on with its generator.
            options: of `CPruneEnv.reset`, for all.
        """
        if self._batch is not None:
            return self._batch.reset(seeds, options)
        for pipe, part in zip(self._pipes, self._parts, strict=True):
            pipe.send(("reset", seeds[part], options))
        return BatchStep.join(self._receive())

    def send(self, actions: NDArray[np.int64]) -> None:
        """Begin a step of each environment; `receive` waits for it."""
        self._actions = actions
        for pipe, part in zip(self._pipes, self._parts, strict=True):
            pipe.send(("step", actions[part]))

    def receive(self) -> BatchStep:
        """Finish the step that `send` began.

        Raises:
            Exception: whatever a step raised in another process.
        """
        if self._batch is not None:
            return self._batch.step(self._actions)
        return BatchStep.join(self._receive())

    def render(self) -> list[Any]:
        """Render each environment."""
        if self._batch is not None:
            return self._batch.render()
        for pipe in self._pipes:
            pipe.send(("render",))
        return list(itertools.chain.from_iterable(self._receive()))

    def close(self) -> None:
        """Close the environments and end the processes; may be called twice."""
        if self._batch is not None:
            self._batch.close()
        for pipe in self._pipes:
            try:
                pipe.send(None)
                pipe.close()
            except OSError:
                pass  # it is gone already
        for process in self._processes:
            process.join(_PATIENCE_S)
            if process.is_alive():
                process.kill()
        self._pipes = []
        self._parts = []
        self._processes = []

    def _receive(self) -> list[Any]:
        answers = [pipe.recv() for pipe in self._pipes]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers
