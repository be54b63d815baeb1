"""MDP (Sun et al., 2024), its channels: prune to a latency by a mixed-integer program in which what is
read and what is written go together.

The latency of a layer is a function of both its widths, so the program knows that narrowing one
layer speeds up the next. Blocks are not removed: a plan here has none to remove. The tables are
read anew for each target, because each measurement improves them.
"""

from __future__ import annotations

from cprune_rl.agents.baselines.latency_target import seek_target
from cprune_rl.agents.baselines.width_milp import SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.network import Plan

__all__ = ["MDP"]


class MDP(SessionSearcher):
    """Seeks the lowest latency target whose plan holds.

    Args:
        max_plans: that are tried before targets that leave some of the slack.
        limits: of the solver, for each plan.
    """

    name = "mdp"

    def __init__(self, max_plans: int = 20, limits: SolverLimits | None = None) -> None:
        self._max_plans = max_plans
        self._limits = limits or SolverLimits()

    def run(self, session: SearchSession) -> None:
        """Bisect the target."""
        seek_target(session, _JointProgram(session, self._limits), self._max_plans)


class _JointProgram:
    """Plans by programs of all widths together."""

    def __init__(self, session: SearchSession, limits: SolverLimits) -> None:
        self._session = session
        self._limits = limits

    def fastest_fitting(self) -> Plan | None:
        """Solve one program."""
        solution = self._program().least_latency(self._session.problem.slack, self._limits)
        return None if solution is None else solution.plan

    def least_loss_within(self, latency_s: float) -> Plan | None:
        """Solve one program."""
        solution = self._program().least_loss(latency_s, self._limits)
        return None if solution is None else solution.plan

    def _program(self) -> WidthProgram:
        problem = self._session.problem
        return WidthProgram.from_problem(
            problem,
            self._session.widths,
            problem.loss_model,
            plan=self._session.best.plan,
            varied=problem.network.touched_groups,
        )
