"""Many walks of one policy, all but the first drawn from its distribution.

Shows what sampling makes of a policy, without any model.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import roll_out

__all__ = ["BestOfWalks"]


class BestOfWalks(SessionSearcher):
    """Walks until the budget is spent; a later walk pays for nothing that an earlier one has seen.

    Args:
        policy: trained before.
        n_walks: at most.
        seed: of what is drawn.
    """

    name = "best-of-k"

    def __init__(self, policy: RowPolicy, n_walks: int = 8, seed: int = 0) -> None:
        self._policy = policy
        self._n_walks = n_walks
        self._seed = seed

    def run(self, session: SearchSession) -> None:
        """Walk greedily once, then by chance."""
        max_rows = self._policy.observation_space.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            roll_out(session, self._choose_best, max_rows=max_rows)
            for _ in range(self._n_walks - 1):
                if session.is_spent:
                    break
                roll_out(session, self._draw, max_rows=max_rows)

    def _choose_best(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> tuple[int, str]:
        action, _ = self._policy.predict(observation, action_masks=mask, deterministic=True)
        return int(action), ""

    def _draw(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[int, str]:
        action, _ = self._policy.predict(observation, action_masks=mask)
        return int(action), ""
