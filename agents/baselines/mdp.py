"""MDP (Sun et al., 2024), its channels: prune to a latency by a mixed-integer program.

What a layer reads and what it writes go together: its latency is a function of both widths, so the
program knows that narrowing one layer speeds up the next. Blocks are not removed: a plan here has
none to remove. The tables are read anew for each target, because each measurement improves them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cprune_rl.agents.baselines.latency_target import seek_target
from cprune_rl.agents.baselines.width_milp import Solution, SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher

__all__ = ["MDP"]


@dataclass(frozen=True)
class MDP(SessionSearcher):
    """Seeks the lowest latency target whose plan holds.

    Attributes:
        max_plans: that are tried before targets that leave some of the slack.
        limits: of the solver, for each plan.
    """

    max_plans: int = 20
    limits: SolverLimits = field(default_factory=SolverLimits)

    name = "mdp"

    def run(self, session: SearchSession) -> None:
        """Bisect the target."""
        seek_target(session, _JointProgram(session, self.limits), self.max_plans)


@dataclass(frozen=True)
class _JointProgram:
    """Plans by programs of all widths together."""

    session: SearchSession
    limits: SolverLimits

    def fastest_fitting(self) -> Solution | None:
        """Solve one program."""
        return self._program().least_latency(self.session.problem.slack, self.limits)

    def least_loss_within(self, latency_s: float) -> Solution | None:
        """Solve one program."""
        return self._program().least_loss(latency_s, self.limits)

    def _program(self) -> WidthProgram:
        problem = self.session.problem
        return WidthProgram.from_problem(
            problem,
            self.session.widths,
            problem.loss_model,
            plan=self.session.best.plan,
            varied=problem.network.touched_groups,
        )
