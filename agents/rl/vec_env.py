"""Many episodes at once, on all cores: environments stepped in batches, a batch to a process.

stable-baselines3 has one process for all environments or one for each; a step of ours is too short
for a message of its
own and too long for one core. Observations, masks and what ended come back in one message for a
whole batch.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from cprune_rl.envs.cprune_env import CPruneEnv

__all__ = ["ProblemVecEnv"]

Make = Callable[[], CPruneEnv]
_PATIENCE_S = 10.0  # for a process that was told to end


@dataclass(frozen=True)
class _Answer:
    """What a batch says after a step or a reset:

    an array with a row for each environment, and what ended.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]

    @staticmethod
    def join(answers: Sequence[_Answer]) -> _Answer:
        arrays = {
            name: np.concatenate([getattr(a, name) for a in answers])
            for name in ("observations", "masks", "rewards", "dones")
        }
        return _Answer(infos=[info for a in answers for info in a.infos], **arrays)


class _Batch:
    """Environments stepped one after the other; each begins anew where its episode ends."""

    def __init__(self, make: Make, seeds: Iterable[int]) -> None:
        self._seeds = list(seeds)
        self._envs = [make() for _ in self._seeds]
        self._returns, self._lengths = np.zeros(len(self._envs)), np.zeros(len(self._envs), int)
        self._started = time.monotonic()

    def reset(self) -> _Answer:
        """Begins all, with their seeds."""
        self._returns[:], self._lengths[:] = 0.0, 0
        observations = [
            env.reset(seed=seed)[0] for env, seed in zip(self._envs, self._seeds, strict=True)
        ]
        return self._answer(
            observations,
            np.zeros(len(self._envs)),
            np.zeros(len(self._envs), bool),
            [{} for _ in self._envs],
        )

    def step(self, actions: NDArray[np.int64]) -> _Answer:
        """A step of each."""
        observations, rewards, dones, infos = (
            [],
            np.zeros(len(self._envs)),
            np.zeros(len(self._envs), bool),
            [],
        )
        for at, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            obs, rewards[at], terminated, truncated, told = env.step(int(action))
            self._returns[at] += rewards[at]
            self._lengths[at] += 1
            dones[at] = terminated or truncated
            info: dict[str, Any] = {}
            if dones[at]:
                elapsed = round(time.monotonic() - self._started, 6)
                info = {
                    "terminal_observation": obs,
                    "TimeLimit.truncated": truncated,
                    "episode": {
                        "r": float(self._returns[at]),
                        "l": int(self._lengths[at]),
                        "t": elapsed,
                    },
                }
                info |= {
                    key: told[key]
                    for key in ("latency_s", "dense_latency_s", "accuracy", "error_type")
                    if key in told
                }
                self._returns[at], self._lengths[at] = 0.0, 0
                obs, _ = env.reset()
            observations.append(obs)
            infos.append(info)
        return self._answer(observations, rewards, dones, infos)

    def _answer(
        self,
        observations: Sequence[NDArray[np.float32]],
        rewards: NDArray[np.float64],
        dones: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> _Answer:
        return _Answer(
            np.stack(observations),
            np.stack([env.action_masks() for env in self._envs]),
            rewards.astype(np.float32),
            dones,
            infos,
        )


def _serve(pipe: Connection, make: Make, seeds: Sequence[int]) -> None:
    """A process's life: a batch, and messages until None or the end of the pipe."""
    try:
        batch = _Batch(make, seeds)
        # problems are remembered for good: to go through them for rubbish again and again took a
        # sixth of the time
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        while (actions := pipe.recv()) is not None:
            pipe.send(batch.reset() if isinstance(actions, str) else batch.step(actions))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        pass  # whoever asked is gone, or told everybody to end
    except Exception as error:  # whatever a step raises is raised again where it was asked for
        pipe.send(error)
    finally:
        pipe.close()


class ProblemVecEnv(VecEnv):
    """Environments for stable-baselines3 (see the module).

    Args:
        make: makes an environment; must be picklable where there are processes.
        n_envs: how many.
        n_workers: processes; 0 steps them all in this one.
        seed: of the first environment; each has its own.
    """

    def __init__(self, make: Make, n_envs: int, n_workers: int = 0, seed: int = 0) -> None:
        sample = make()
        parts = np.array_split(np.arange(seed, seed + n_envs), max(n_workers, 1))
        self._sizes = [len(part) for part in parts]
        self._batch = _Batch(make, parts[0].tolist()) if n_workers == 0 else None
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        context = multiprocessing.get_context("forkserver")
        if n_workers:
            context.set_forkserver_preload(
                [__name__]
            )  # what is imported is imported once, not by one process after the other
        for part in parts if n_workers else ():
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, make, part.tolist()), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        self._masks: NDArray[np.bool_] = np.zeros((n_envs, 0), bool)
        self._actions: NDArray[np.int64] | str = "reset"
        super().__init__(n_envs, sample.observation_space, sample.action_space)

    def reset(self) -> NDArray[np.float32]:
        """See `VecEnv`."""
        self._send("reset")
        return self._receive().observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """See `VecEnv`."""
        self._send(np.asarray(actions))

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """See `VecEnv`."""
        answer = self._receive()
        return answer.observations, answer.rewards, answer.dones, answer.infos

    def close(self) -> None:
        """Ends the processes; may be called twice."""
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
        self._pipes, self._processes = [], []

    def has_attr(self, attr_name: str) -> bool:
        """See `VecEnv`."""
        return attr_name in ("action_masks", "render_mode")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """See `VecEnv`; environments in other processes have no attributes to give."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Not offered."""
        raise AttributeError(attr_name)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """`action_masks` alone: they came with the observations."""
        if method_name != "action_masks":
            raise AttributeError(method_name)
        return [self._masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Never by a wrapper; episodes are counted here, so nobody need wrap them in a Monitor."""
        return [wrapper_class.__name__ == "Monitor"] * len(list(self._get_indices(indices)))

    def _send(self, actions: NDArray[np.int64] | str) -> None:
        self._actions = actions
        if isinstance(actions, str):
            parts: list[Any] = [actions] * len(self._pipes)
        else:
            parts = np.split(actions, np.cumsum(self._sizes)[:-1])
        for pipe, part in zip(self._pipes, parts, strict=False):
            pipe.send(part)

    def _receive(self) -> _Answer:
        if self._batch is not None:
            answer = (
                self._batch.reset()
                if isinstance(self._actions, str)
                else self._batch.step(self._actions)
            )
        else:
            answers = [pipe.recv() for pipe in self._pipes]
            for failed in (a for a in answers if isinstance(a, Exception)):
                raise failed
            answer = _Answer.join(answers)
        self._masks = answer.masks
        return answer
