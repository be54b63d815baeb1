"""One walk through the environment, by whatever chooses the actions, written down by a session."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.envs.actions.base import ActionSet, PruneAction
from cprune_rl.envs.cprune_env import CPruneEnv
from cprune_rl.envs.problem import Problem

__all__ = ["Choose", "PolicyRollOut", "RollOut"]

Choose = Callable[[NDArray[np.float32], NDArray[np.bool_]], "int | tuple[int, str]"]


class RollOut:
    """A walk that ends by itself, or where the budget is spent.

    Args:
        problem: what to solve.
        session: counts and writes down.
        max_rows: rows of the observation.
        max_steps: truncation: far more than a walk takes, so that it never binds.
        max_rejections: the walk ends after so many.
        action_set: which changes there are; narrower groups where not given.
    """

    def __init__(
        self,
        problem: Problem,
        session: SearchSession,
        max_rows: int,
        max_steps: int = 1000,
        max_rejections: int = 8,
        action_set: ActionSet | None = None,
    ) -> None:
        self._session = session
        options: dict[str, Any] = {
            "max_rows": max_rows,
            "max_steps": max_steps,
            "max_rejections": max_rejections,
            "action_set": action_set,
        }
        self._env = gymnasium.make(
            "cprune_rl/CPrune-v0", problem=problem, disable_env_checker=True, **options
        )
        core = self._env.unwrapped
        assert isinstance(core, CPruneEnv)
        self._core = core

    def run(self, choose: Choose) -> None:
        """Walks.

        Args:
            choose: the action, from the observation and the mask of legal ones; with what spoke for
                it, if it says so.

        Raises:
            DeviceError: the device is gone.
        """
        obs, info = self._env.reset(seed=0)
        if not self._session.accepted:  # the session may have seen another walk
            self._session.start(self._dense_s(info["latency_s"]))
        done = False
        while not done and not self._session.is_spent:
            chosen = choose(obs, self._core.action_masks())
            action, why = chosen if isinstance(chosen, tuple) else (chosen, "")
            move = self._core.prune_action(action)
            what = "stop" if move is None else self._describe(move)
            expected = (
                None if move is None else float(self._core.action_table.gain[move.row, move.change])
            )
            before_s = self._core.state.table.latency_s
            obs, _, terminated, truncated, info = self._env.step(np.int64(action))
            if self._core.failure is not None:
                raise self._core.failure
            done = terminated or truncated
            if move is not None:
                accuracy = None if "error_type" in info else info["tried_accuracy"]
                gain = (
                    math.log(before_s / info["tried_latency_s"])
                    if math.isfinite(info["tried_latency_s"])
                    else None
                )
                self._session.record(
                    SearchStep(
                        move.plan,
                        what,
                        info["tried_latency_s"],
                        accuracy,
                        info["accepted"],
                        0.0,
                        expected,
                        gain,
                        why,
                        info.get("standard_error", 0.0),
                    )
                )

    def _dense_s(self, beginning_s: float) -> float:
        problem = self._core.problem
        return beginning_s if problem.start is None else problem.measured_s(problem.network.dense)

    def _describe(self, move: PruneAction) -> str:
        first = self._core.state.table.rows[move.row].subgraphs[0]
        return f"{self._core.problem.network.subgraphs[first].name} {self._core.action_set.describe(move.change)}"


class PolicyRollOut:
    """Rolls a trained policy out once, greedily decoded (see `searcher.Searcher`).

    Args:
        policy: trained before; reads tables of `policy.observation_space.shape[0]` rows.
        max_rejections: the roll-out ends after so many.
        action_set: that it was trained on; narrower groups where not given.
    """

    name = "roll-out"

    def __init__(
        self, policy: RowPolicy, max_rejections: int = 8, action_set: ActionSet | None = None
    ) -> None:
        self._policy, self._max_rejections, self._action_set = policy, max_rejections, action_set

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """One roll-out."""
        session = SearchSession(problem, budget, on_step)
        RollOut(
            problem,
            session,
            self._policy.observation_space.shape[0],
            max_rejections=self._max_rejections,
            action_set=self._action_set,
        ).run(self._choose)
        return session.result(self.name)

    def _choose(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[int, str]:
        action, _ = self._policy.predict(observation, action_masks=mask, deterministic=True)
        learned, analytic = self._policy.explain(observation, int(action))
        return int(action), f"score {analytic:+.1f}, learned {learned:+.1f}"
