"""The same share of every group, from wide to narrow: what a user tries first."""

from __future__ import annotations

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import nearest
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["Uniform"]

_RATIOS = np.arange(0.95, 0.15, -0.05)
_PATIENCE = 2  # narrower plans that fail in a row


class Uniform:
    """See the module (and `searcher.Searcher`).

    Latency is no falling function of the share, so all of them are looked at.
    """

    name = "uniform"

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Narrows until two plans in a row do not hold."""
        looks, dense, n_failed = (
            Looks(problem, budget, on_step),
            np.array(problem.network.dense.widths, float),
            0,
        )
        for ratio in _RATIOS:
            if looks.session.is_spent or n_failed == _PATIENCE:
                break
            step = looks.take(
                nearest(looks.widths, dense * ratio),
                f"{ratio:.0%} of every group",
                below_s=looks.best_s,
            )
            n_failed = (
                n_failed + 1
                if step.accuracy is not None and not step.accepted
                else 0
                if step.accepted
                else n_failed
            )
        return looks.session.result(self.name)
