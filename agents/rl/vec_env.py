"""Many episodes at once, on all cores: environments stepped in batches, a batch to a process.

stable-baselines3 has one process for all environments or one for each. A step of ours is too short
for a message of its own, and all steps are too long for one core. Observations, masks and what
ended come back in one message for a whole batch.
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
_KEPT_INFO = ("latency_s", "dense_latency_s", "accuracy", "error_type")  # of an episode's last step


@dataclass(frozen=True, kw_only=True)
class _BatchResult:
    """What a batch says after a step or a reset: arrays with a row for each environment."""

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    dones: NDArray[np.bool_]
    infos: list[dict[str, Any]]

    @staticmethod
    def join(results: Sequence[_BatchResult]) -> _BatchResult:
        """Put the results of several batches together."""
        infos = []
        for result in results:
            infos += result.infos
        return _BatchResult(
            observations=np.concatenate([r.observations for r in results]),
            masks=np.concatenate([r.masks for r in results]),
            rewards=np.concatenate([r.rewards for r in results]),
            dones=np.concatenate([r.dones for r in results]),
            infos=infos,
        )


class _Batch:
    """Environments stepped one after the other; each begins anew where its episode ends."""

    def __init__(self, make: Make, seeds: Iterable[int]) -> None:
        self._seeds = list(seeds)
        self._envs = [make() for _ in self._seeds]
        self._returns = np.zeros(len(self._envs))
        self._lengths = np.zeros(len(self._envs), int)
        self._started_s = time.monotonic()

    def reset(self) -> _BatchResult:
        """Begin all, with their seeds."""
        n_envs = len(self._envs)
        self._returns[:] = 0.0
        self._lengths[:] = 0
        observations = []
        for env, seed in zip(self._envs, self._seeds, strict=True):
            observations.append(env.reset(seed=seed)[0])
        no_infos: list[dict[str, Any]] = [{} for _ in self._envs]
        return self._result(observations, np.zeros(n_envs), np.zeros(n_envs, bool), no_infos)

    def step(self, actions: NDArray[np.int64]) -> _BatchResult:
        """Step each."""
        n_envs = len(self._envs)
        observations = []
        rewards = np.zeros(n_envs)
        dones = np.zeros(n_envs, bool)
        infos: list[dict[str, Any]] = []
        for at, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            observation, rewards[at], terminated, truncated, info = env.step(int(action))
            self._returns[at] += rewards[at]
            self._lengths[at] += 1
            dones[at] = terminated or truncated
            kept: dict[str, Any] = {}
            if dones[at]:
                kept = {name: info[name] for name in _KEPT_INFO if name in info}
                kept |= self._end_episode(at)
                kept["terminal_observation"] = observation
                kept["TimeLimit.truncated"] = truncated
                observation, _ = env.reset()
            observations.append(observation)
            infos.append(kept)
        return self._result(observations, rewards, dones, infos)

    def _end_episode(self, at: int) -> dict[str, Any]:
        """Sum an episode up as stable-baselines3's Monitor does."""
        episode = {
            "r": float(self._returns[at]),
            "l": int(self._lengths[at]),
            "t": round(time.monotonic() - self._started_s, 6),
        }
        self._returns[at] = 0.0
        self._lengths[at] = 0
        return {"episode": episode}

    def _result(
        self,
        observations: Sequence[NDArray[np.float32]],
        rewards: NDArray[np.float64],
        dones: NDArray[np.bool_],
        infos: list[dict[str, Any]],
    ) -> _BatchResult:
        return _BatchResult(
            observations=np.stack(observations),
            masks=np.stack([env.action_masks() for env in self._envs]),
            rewards=rewards.astype(np.float32),
            dones=dones,
            infos=infos,
        )


def _serve(pipe: Connection, make: Make, seeds: Sequence[int]) -> None:
    """Step a batch in a process of its own, message by message, until None or the end of the pipe."""
    try:
        batch = _Batch(make, seeds)
        # Problems are remembered for good: to go through them for rubbish again and again took a
        # sixth of the time.
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
    """Environments for stable-baselines3.

    Args:
        make: makes an environment; must be picklable where there are processes.
        n_envs: how many.
        n_workers: processes; 0 steps all environments in this one.
        seed: of the first environment; each has its own.
    """

    def __init__(self, make: Make, n_envs: int, n_workers: int = 0, seed: int = 0) -> None:
        sample = make()
        seeds = np.array_split(np.arange(seed, seed + n_envs), max(n_workers, 1))
        self._sizes = [len(part) for part in seeds]
        self._batch = _Batch(make, seeds[0].tolist()) if n_workers == 0 else None
        self._pipes: list[Connection] = []
        self._processes: list[multiprocessing.process.BaseProcess] = []
        if n_workers:
            context = multiprocessing.get_context("forkserver")
            # What is imported is imported once, not by one process after the other.
            context.set_forkserver_preload([__name__])
            for part in seeds:
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
        """Begin all environments, with their seeds."""
        self._send("reset")
        return self._receive().observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Send the actions of all environments."""
        self._send(np.asarray(actions))

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Receive what they came to."""
        result = self._receive()
        return result.observations, result.rewards, result.dones, result.infos

    def close(self) -> None:
        """End the processes; may be called twice."""
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
        self._processes = []

    def has_attr(self, attr_name: str) -> bool:
        """Whether `get_attr` or `env_method` knows a name."""
        return attr_name in ("action_masks", "render_mode")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Give `render_mode` alone: environments in other processes have no attributes to give."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: environments may be in other processes."""
        raise AttributeError(attr_name)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Give `action_masks` alone: they came with the observations."""
        if method_name != "action_masks":
            raise AttributeError(method_name)
        return [self._masks[at] for at in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Claim a Monitor, and no other wrapper: episodes are summed up here."""
        return [wrapper_class.__name__ == "Monitor"] * len(list(self._get_indices(indices)))

    def _send(self, actions: NDArray[np.int64] | str) -> None:
        self._actions = actions
        if isinstance(actions, str):
            parts: list[Any] = [actions] * len(self._pipes)
        else:
            parts = np.split(actions, np.cumsum(self._sizes)[:-1])
        for pipe, part in zip(self._pipes, parts, strict=False):
            pipe.send(part)

    def _receive(self) -> _BatchResult:
        if self._batch is None:
            results = [pipe.recv() for pipe in self._pipes]
            for result in results:
                if isinstance(result, Exception):
                    raise result
            joined = _BatchResult.join(results)
        elif isinstance(self._actions, str):
            joined = self._batch.reset()
        else:
            joined = self._batch.step(self._actions)
        self._masks = joined.masks
        return joined
