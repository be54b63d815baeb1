"""Many walks of one policy, all but the first drawn from its distribution.

Shows what sampling makes of a policy, without any model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import roll_out

__all__ = ["BestOfWalks"]


@dataclass(frozen=True)
class BestOfWalks(SessionSearcher):
    """Walks until the budget is spent; a later walk pays for nothing that an earlier one measured.

    Attributes:
        policy: trained before.
        n_walks: at most.
        seed: of what is drawn.
    """

    policy: RowPolicy
    n_walks: int = 8
    seed: int = 0

    name = "best-of-k"

    def run(self, session: SearchSession) -> None:
        """Walk greedily once, then by chance."""
        max_rows = self.policy.observation_space.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            for walk in range(self.n_walks):
                if session.is_spent:
                    break
                choose = functools.partial(self._choose, is_drawn=walk > 0)
                roll_out(session, choose, max_rows=max_rows)

    def _choose(
        self, observation: NDArray[np.float32], mask: NDArray[np.bool_], *, is_drawn: bool
    ) -> tuple[int, str]:
        action, _ = self.policy.predict(observation, action_masks=mask, deterministic=not is_drawn)
        return int(action), ""
