"""The same share of every group, from wide to narrow: what a user tries first."""

from __future__ import annotations

import numpy as np

from cprune_rl.agents.baselines.plan_sampling import nearest_plan
from cprune_rl.agents.core.session import SearchSession, SessionSearcher

__all__ = ["Uniform"]

_RATIOS = np.arange(0.95, 0.15, -0.05)
_PATIENCE = 2  # narrower plans that fail in a row


class Uniform(SessionSearcher):
    """Tries uniform plans; latency is no falling function of the share, so each one is measured."""

    name = "uniform"

    def run(self, session: SearchSession) -> None:
        """Narrow until two plans in a row do not hold."""
        dense = np.array(session.problem.network.dense.widths, float)
        n_failed = 0
        for ratio in _RATIOS:
            if session.is_spent or n_failed == _PATIENCE:
                break
            step = session.try_once(
                nearest_plan(session.widths, dense * ratio),
                f"{ratio:.0%} of every group",
                only_if_faster_than=session.best.latency_s,
            )
            if step.accepted:
                n_failed = 0
            elif step.accuracy is not None:
                n_failed += 1
