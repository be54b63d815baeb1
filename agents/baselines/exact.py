"""A reference that knows everything: the fastest plan whose true loss fits.

It says whether the plan is proven optimal, and shows the gap that a search leaves on problems where
nothing is hidden: predicted latencies that are the truth, and losses that add up. It is no rival:
on a device nobody knows either. Its plans are of the dense network's legal steps. A search whose
steps follow its own plan's programs may come to widths that this one does not consider.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.agents.baselines.width_milp import SolverLimits, WidthProgram
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.core.loss_model import LossModel

__all__ = ["PROVEN", "Exact"]

PROVEN = "proven optimal"
_LIMITS = SolverLimits(time_limit_s=300.0, relative_gap=0.0)


@dataclass(frozen=True)
class Exact(SessionSearcher):
    """Solves one program of all widths.

    Attributes:
        truth: of the losses.
        limits: of the solver.
    """

    truth: LossModel
    limits: SolverLimits = _LIMITS

    name = "exact"

    def run(self, session: SearchSession) -> None:
        """Try the program's plan; the step's `why` says whether it is proven optimal."""
        problem = session.problem
        program = WidthProgram.from_problem(
            problem,
            session.widths,
            self.truth,
            plan=problem.network.dense,
            varied=problem.network.touched_groups,
        )
        solution = program.least_latency(problem.slack, self.limits)
        if solution is not None and not session.is_spent:
            unproven = f"not proven optimal: none is faster than {solution.bound:.6g} s"
            why = PROVEN if solution.is_optimal else unproven
            session.try_once(solution.plan, "exact", why=why)
