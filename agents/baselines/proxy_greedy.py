"""Adaptive proxy greedy:

the best ratio of expected latency gain to expected loss, corrected by what steps turned out to
cost.

The strongest cheap rule there is: NetAdapt's (Yang et al., ECCV 2018) with the predicted loss
model in the place of an
accuracy evaluation of every candidate. It walks the environment, so it sees what an agent sees and
plays by its rules.
"""

from __future__ import annotations

import numpy as np

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.agents.rl.rollout import RollOut
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.observation import N_GLOBALS
from cprune_rl.envs.problem import Problem

__all__ = ["ProxyGreedy"]

_NO_GAIN = (
    np.log(1e-4) / 2 + 1.5 + 1e-3
)  # what the observation shows of a step without a gain, and a little


class ProxyGreedy:
    """See the module.

    Args:
        max_rejections: the walk ends after so many.
        action_set: which changes it chooses among; narrower groups where not given.
    """

    name = "proxy-greedy"

    def __init__(self, max_rejections: int = 8, action_set: ActionSet | None = None) -> None:
        self._max_rejections, self._action_set = max_rejections, action_set

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Takes the legal step of the highest score until none promises a gain (see
        `searcher.Searcher`).
        """
        session = SearchSession(problem, budget, on_step)
        RollOut(
            problem,
            session,
            max_rows=len(problem.network.subgraphs),
            max_rejections=self._max_rejections,
            action_set=self._action_set,
        ).run(_choose)
        return session.result(self.name)


def _choose(observation: np.ndarray, mask: np.ndarray) -> int:
    stop = len(mask) - 1
    n_changes = stop // len(observation)
    of_actions = observation[
        :, : observation.shape[1] - N_GLOBALS
    ]  # the last three times so many are gain, loss and score (`observation.features`)
    gain, score = (
        of_actions[:, -3 * n_changes : -2 * n_changes].reshape(-1),
        of_actions[:, -n_changes:].reshape(-1),
    )
    able = mask[:stop] & (gain > _NO_GAIN)
    return int(np.where(able, score, -np.inf).argmax()) if able.any() else stop
