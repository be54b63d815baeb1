"""The environment as a Gymnasium `VectorEnv`: what `gymnasium.make_vec` gives."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from cprune_rl.envs.batch import BatchedEnvs, BatchStep
from cprune_rl.envs.cprune_env import MAX_EPISODE_STEPS, CPruneEnv, ProblemChoice
from cprune_rl.envs.problems.registry import open_recorded

__all__ = ["CPruneVectorEnv"]


class CPruneVectorEnv(
    VectorEnv[NDArray[np.float32], NDArray[np.int64], NDArray[Any]],
):
    """Step many `CPruneEnv`s at once, in one process or several.

    An episode that ends is followed by the next one in the same step (`AutoresetMode.SAME_STEP`):
    the last observation and info of the one that ended are in `infos["final_obs"]` and
    `infos["final_info"]`. `infos` also has `action_mask`, `latency_s`, `dense_latency_s` and
    `accuracy` of every environment.

    ```python
    >>> import gymnasium as gym
    >>> import cprune_rl  # registers the environments
    >>> envs = gym.make_vec("cprune_rl/CPruneRecorded-v0", num_envs=8, n_workers=2)
    >>> obs, infos = envs.reset(seed=0)
    >>> obs, rewards, terminations, truncations, infos = envs.step(infos["action_mask"].argmax(1))
    >>> envs.close()

    ```

    Args:
        problem: what to solve; a recording is opened once for all environments.
        num_envs: number of environments.
        max_episode_steps: truncates an episode.
        n_workers: other processes to step in; 0 is this one.
        options: further arguments of `CPruneEnv`.
    """

    env_class: ClassVar[type[CPruneEnv]] = CPruneEnv

    def __init__(
        self,
        problem: ProblemChoice | None = None,
        *,
        num_envs: int = 1,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        n_workers: int = 0,
        **options: Any,
    ) -> None:
        if problem is None or isinstance(problem, str):
            problem = open_recorded(problem)
        make = functools.partial(self.env_class, problem, max_steps=max_episode_steps, **options)
        self._envs = BatchedEnvs(make, num_envs, n_workers)
        self.metadata = {**CPruneEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.render_mode = options.get("render_mode")
        self.num_envs = num_envs
        self.single_observation_space = self._envs.observation_space
        self.single_action_space = self._envs.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._masks: NDArray[np.bool_] | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode in each environment.

        Args:
            seed: of the first environment, and one more for each further; or of each.
            options: of `CPruneEnv.reset`, for all.
        """
        if seed is None or isinstance(seed, int):
            first = seed
            seed = [None if first is None else first + at for at in range(self.num_envs)]
        step = self._envs.reset(seed, options)
        return step.observations, self._infos(step)

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Take a step in each environment."""
        self._envs.send(np.asarray(actions))
        step = self._envs.receive()
        return step.observations, step.rewards, step.terminated, step.truncated, self._infos(step)

    def action_masks(self) -> NDArray[np.bool_]:
        """Say which actions are legal, `(num_envs, n_actions)`."""
        if self._masks is None:
            raise gymnasium.error.ResetNeeded("call reset() first")
        return self._masks

    def render(self) -> tuple[Any, ...] | None:
        """Render each environment."""
        return tuple(self._envs.render())

    def close_extras(self, **kwargs: Any) -> None:
        """Close the environments and end the processes."""
        self._envs.close()

    def _infos(self, step: BatchStep) -> dict[str, Any]:
        self._masks = step.masks
        infos: dict[str, Any] = {
            "action_mask": step.masks.astype(np.int8),
            "latency_s": step.latency_s,
            "dense_latency_s": step.dense_latency_s,
            "accuracy": step.accuracy,
        }
        for name in tuple(infos):
            infos[f"_{name}"] = np.ones(self.num_envs, bool)
        for at, end in enumerate(step.ended):
            if end is not None:
                final = {"final_obs": end[0], "final_info": end[1]}
                infos = self._add_info(infos, final, at)
        return infos
