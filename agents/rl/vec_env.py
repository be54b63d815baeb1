"""Many episodes at once for stable-baselines3.

stable-baselines3 has one process for all environments or one for each. Here each process steps a
batch of them (see `envs.batch`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from cprune_rl.envs.batch import BatchedEnvs, MakeEnv

__all__ = ["ProblemVecEnv"]

_FINAL_KEYS = ("latency_s", "dense_latency_s", "accuracy", "error_type")


class ProblemVecEnv(VecEnv):
    """Steps environments in batches, in this process or in several.

    Episodes are counted here, so that no `Monitor` is needed.

    Args:
        make: makes an environment; it must be picklable where there are other processes.
        n_envs: number of environments.
        n_workers: other processes; 0 steps all environments in this one.
        seed: of the first environment; each has its own.
    """

    def __init__(self, make: MakeEnv, n_envs: int, n_workers: int = 0, seed: int = 0) -> None:
        self._envs = BatchedEnvs(make, n_envs, n_workers, preload=__name__)
        self._first_seed = seed
        self._masks: NDArray[np.bool_] = np.zeros((n_envs, 0), bool)
        self._returns = np.zeros(n_envs)
        self._lengths = np.zeros(n_envs, int)
        self._started_s = time.monotonic()
        super().__init__(n_envs, self._envs.observation_space, self._envs.action_space)

    def reset(self) -> NDArray[np.float32]:
        """Start an episode in each environment, with its seed."""
        seeds = range(self._first_seed, self._first_seed + self.num_envs)
        step = self._envs.reset(seeds)
        self._masks = step.masks
        self._returns[:] = 0.0
        self._lengths[:] = 0
        return step.observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Begin a step of each environment."""
        self._envs.send(np.asarray(actions))

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Finish the step; an environment whose episode ended gives the next one's observation."""
        step = self._envs.receive()
        self._masks = step.masks
        self._returns += step.rewards
        self._lengths += 1
        dones = step.terminated | step.truncated
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for at, end in enumerate(step.ended):
            if end is not None:
                infos[at] = self._end_episode(at, *end)
                infos[at]["TimeLimit.truncated"] = bool(step.truncated[at])
        return step.observations, step.rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environments and end the processes; may be called twice."""
        self._envs.close()

    def has_attr(self, attr_name: str) -> bool:
        """Say whether `get_attr` or `env_method` knows a name."""
        return attr_name in ("action_masks", "render_mode")

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Give `render_mode` alone: environments in other processes have no attributes to give."""
        if attr_name != "render_mode":
            raise AttributeError(attr_name)
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refuse: there is no attribute to set."""
        raise AttributeError(attr_name)

    def env_method(
        self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any
    ) -> list[Any]:
        """Give `action_masks` alone: they came with the observations."""
        if method_name != "action_masks":
            raise AttributeError(method_name)
        return [self._masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Say that a `Monitor` is there, and nothing else."""
        return [wrapper_class.__name__ == "Monitor"] * len(list(self._get_indices(indices)))

    def _end_episode(
        self, at: int, observation: NDArray[np.float32], info: dict[str, Any]
    ) -> dict[str, Any]:
        """Sum an episode up as stable-baselines3's `Monitor` does, and count anew."""
        episode = {
            "r": float(self._returns[at]),
            "l": int(self._lengths[at]),
            "t": round(time.monotonic() - self._started_s, 6),
        }
        self._returns[at] = 0.0
        self._lengths[at] = 0
        return {
            "terminal_observation": observation,
            "episode": episode,
            **{name: info[name] for name in _FINAL_KEYS if name in info},
        }
