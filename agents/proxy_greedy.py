"""Adaptive proxy greedy: the best ratio of expected latency gain to expected loss, corrected by what steps turned out to cost.

The strongest cheap rule there is: NetAdapt's (Yang et al., ECCV 2018) with the predicted loss curves in the place of an
accuracy evaluation of every candidate. It walks the environment, so it sees what an agent sees and plays by its rules.
"""

from __future__ import annotations

import numpy as np

from cprune_rl.agents.rollout import RollOut
from cprune_rl.agents.searcher import Budget, Meter, OnStep, SearchResult
from cprune_rl.envs.observation import FEATURES, N_WIDTHS
from cprune_rl.envs.problem import Problem

__all__ = ["ProxyGreedy"]

_GAIN, _SCORE = (FEATURES.index(f"{name}_x1") for name in ("log_gain", "score"))
_NO_GAIN = np.log(1e-4) / 2 + 1.5 + 1e-3  # what the observation shows of a step without a gain, and a little


class ProxyGreedy:
    """See the module.

    Args:
        max_rejections: the walk ends after so many.
    """

    name = "proxy-greedy"

    def __init__(self, max_rejections: int = 8) -> None:
        self._max_rejections = max_rejections

    def search(self, problem: Problem, budget: Budget, on_step: OnStep | None = None) -> SearchResult:
        """Takes the legal step of the highest score until none promises a gain (see `searcher.Searcher`)."""
        meter = Meter(problem, budget, on_step)
        RollOut(problem, meter, max_rows=len(problem.network.subgraphs), max_rejections=self._max_rejections).run(_choose)
        return meter.result(self.name)


def _choose(observation: np.ndarray, mask: np.ndarray) -> int:
    rows = observation.shape[0]
    gain, score = (observation[:, at : at + N_WIDTHS].reshape(-1) for at in (_GAIN, _SCORE))
    able = mask[: rows * N_WIDTHS] & (gain > _NO_GAIN)
    return int(np.where(able, score, -np.inf).argmax()) if able.any() else rows * N_WIDTHS
