"""A reference that knows everything:

the fastest plan whose true loss fits, and whether that is proven.

For the gap that a search leaves on problems where nothing is hidden (`open_replay(...,
perfect_information=True)`): cheap looks that are the truth, and
losses that add up. It is no rival: on a device nobody knows either. Its plans are of the dense
network's legal steps; a search whose steps follow its
own plan's programs may come to widths that this one does not consider. Called by comparisons and
tests.
"""

from __future__ import annotations

from cprune_rl.agents.baselines.width_milp import Effort, WidthProgram
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["PROVEN", "Exact"]

PROVEN = "proven optimal"


class Exact:
    """See the module (and `searcher.Searcher`).

    Args:
        truth: of the losses.
        effort: of the solver.
    """

    name = "exact"

    def __init__(self, truth: LossModel, effort: Effort | None = None) -> None:
        self._truth, self._effort = truth, effort or Effort(time_limit_s=300.0, relative_gap=0.0)

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """One program and one look;

        the step's `why` says whether the plan is proven optimal (see `searcher.Searcher`).
        """
        looks = Looks(problem, budget, on_step)
        program = WidthProgram.of(
            problem,
            looks.widths,
            self._truth,
            problem.network.dense,
            problem.network.touched_groups,
        )
        found = program.least_latency(looks.slack, self._effort)
        if found is not None and not looks.session.is_spent:
            why = (
                PROVEN
                if found.is_optimal
                else f"not proven optimal: none is faster than {found.bound:.6g} s"
            )
            looks.take(found.plan, "exact", why)
        return looks.session.result(self.name)
