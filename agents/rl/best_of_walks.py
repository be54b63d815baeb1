"""Many walks of one policy, all but the first drawn from its distribution:

what sampling makes of it, without any model.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import RollOut
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["BestOfWalks"]


class BestOfWalks:
    """See the module (and `searcher.Searcher`).

    Args:
        policy: trained before.
        n_walks: at most; fewer where the budget is spent.
        seed: of what is drawn.
    """

    name = "best-of-k"

    def __init__(self, policy: RowPolicy, n_walks: int = 8, seed: int = 0) -> None:
        self._policy, self._n_walks, self._seed = policy, n_walks, seed

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Walks; a later walk pays for nothing that an earlier one has seen."""
        session = SearchSession(problem, budget, on_step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            for walk in range(self._n_walks):
                if walk == 0 or not session.is_spent:
                    RollOut(problem, session, self._policy.observation_space.shape[0]).run(
                        functools.partial(self._choose, walk == 0)
                    )
        return session.result(self.name)

    def _choose(
        self, is_first: bool, observation: NDArray[np.float32], mask: NDArray[np.bool_]
    ) -> int:
        action, _ = self._policy.predict(observation, action_masks=mask, deterministic=is_first)
        return int(action)
