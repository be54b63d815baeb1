"""Adaptive proxy greedy: the best ratio of expected latency gain to expected loss.

The loss is corrected by what steps turned out to cost. This is the strongest cheap rule there is:
NetAdapt's (Yang et al., ECCV 2018) with the predicted loss in the place of an accuracy evaluation
of every candidate. It walks the environment, so it sees what an agent sees and plays by its rules.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.rl.rollout import roll_out
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.observation import N_GLOBALS

__all__ = ["ProxyGreedy"]

# What the observation shows of a step without a gain, and a little.
_NO_GAIN = np.log(1e-4) / 2 + 1.5 + 1e-3


@dataclass(frozen=True)
class ProxyGreedy(SessionSearcher):
    """Takes the legal step of the highest score until none promises a gain.

    Attributes:
        max_rejections: the walk ends after so many.
        action_set: narrower groups where not given.
    """

    max_rejections: int = 8
    action_set: ActionSet | None = None

    name = "proxy-greedy"

    def run(self, session: SearchSession) -> None:
        """Walk once."""
        roll_out(
            session,
            _choose,
            max_rows=len(session.problem.network.subgraphs),
            max_rejections=self.max_rejections,
            action_set=self.action_set,
        )


def _choose(observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[int, str]:
    stop = len(mask) - 1
    n_changes = stop // len(observation)
    # The last three times `n_changes` columns of actions are gain, loss and score
    # (`observation.features`).
    of_actions = observation[:, : observation.shape[1] - N_GLOBALS]
    gain = of_actions[:, -3 * n_changes : -2 * n_changes].reshape(-1)
    score = of_actions[:, -n_changes:].reshape(-1)
    is_candidate = mask[:stop] & (gain > _NO_GAIN)
    if not is_candidate.any():
        return stop, ""
    return int(np.where(is_candidate, score, -np.inf).argmax()), ""
