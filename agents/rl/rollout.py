"""One walk through the environment, by whatever chooses the actions, written down in a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.core.search_result import SearchStep, log_gain
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.cprune_env import CPruneEnv

__all__ = ["Choose", "PolicyRollOut", "roll_out"]

Choose = Callable[[NDArray[np.float32], NDArray[np.bool_]], tuple[int, str]]
"""From an observation and the mask of legal actions to an action, and what spoke for it."""
_MAX_STEPS = 1000  # far more than a walk takes, so that truncation never binds


def roll_out(
    session: SearchSession,
    choose: Choose,
    *,
    max_rows: int,
    max_rejections: int = 8,
    action_set: ActionSet | None = None,
) -> None:
    """Walk until the episode ends or the budget is spent.

    Args:
        session: whose problem is walked; every step is written down in it.
        choose: says what to do.
        max_rows: rows of the observation.
        max_rejections: the walk ends after so many.
        action_set: narrower groups where not given.

    Raises:
        DeviceError: the device is gone.
    """
    env = CPruneEnv(
        session.problem,
        max_rows=max_rows,
        max_steps=_MAX_STEPS,
        max_rejections=max_rejections,
        action_set=action_set,
    )
    observation, _ = env.reset(seed=0)
    is_over = False
    while not is_over and not session.is_spent:
        action, why = choose(observation, env.action_masks())
        tried = env.prune_action(action)
        before_s = env.state.table.latency_s
        if tried is not None:
            first = env.state.table.rows[tried.row].subgraphs[0]
            name = session.problem.network.subgraphs[first].name
            what = f"{name} {env.action_set.describe(tried.change)}"
            expected_gain = float(env.action_table.gain[tried.row, tried.change])
        observation, _, terminated, truncated, info = env.step(action)
        if env.failure is not None:
            raise env.failure
        is_over = terminated or truncated
        if tried is not None:
            step = SearchStep(
                plan=tried.plan,
                what=what,
                latency_s=info["tried_latency_s"],
                accuracy=None if "error_type" in info else info["tried_accuracy"],
                accepted=info["accepted"],
                expected_gain=expected_gain,
                gain=log_gain(before_s, info["tried_latency_s"]),
                why=why,
                standard_error=info.get("standard_error", 0.0),
            )
            session.record(step)


@dataclass(frozen=True)
class PolicyRollOut(SessionSearcher):
    """Rolls a trained policy out once, greedily decoded.

    Attributes:
        policy: trained before; reads tables of `policy.observation_space.shape[0]` rows.
        max_rejections: the roll-out ends after so many.
        action_set: that it was trained on; narrower groups where not given.
    """

    policy: RowPolicy
    max_rejections: int = 8
    action_set: ActionSet | None = None

    name = "roll-out"

    def run(self, session: SearchSession) -> None:
        """Roll out once."""
        roll_out(
            session,
            self._choose,
            max_rows=self.policy.observation_space.shape[0],
            max_rejections=self.max_rejections,
            action_set=self.action_set,
        )

    def _choose(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[int, str]:
        action, _ = self.policy.predict(observation, action_masks=mask, deterministic=True)
        learned, analytic = self.policy.explain(observation, int(action))
        return int(action), f"score {analytic:+.1f}, learned {learned:+.1f}"
