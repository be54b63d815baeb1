"""MDP (Sun et al., 2024), its channels:

prune to a latency by a mixed-integer program in which what is read and what is written go together.

The latency of a layer is a function of both its widths, so the program knows that narrowing one
layer speeds up the next. Blocks are not
removed: a plan here has none to remove. The tables are read anew for each target, because each look
    improves them.
"""

from __future__ import annotations

from cprune_rl.agents.baselines.latency_target import seek_target
from cprune_rl.agents.baselines.width_milp import Effort, WidthProgram
from cprune_rl.agents.core.searcher import Budget, OnStep
from cprune_rl.agents.core.session import Looks
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["MDP"]


class MDP:
    """See the module (and `searcher.Searcher`).

    Args:
        most_looks: at plans.
        effort: of the solver, for each plan.
    """

    name = "mdp"

    def __init__(self, most_looks: int = 20, effort: Effort | None = None) -> None:
        self._most_looks, self._effort = most_looks, effort or Effort()

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Seeks the lowest latency target whose plan holds (see `searcher.Searcher`)."""
        looks = Looks(problem, budget, on_step)
        seek_target(looks, _Joint(looks, self._effort), self._most_looks)
        return looks.session.result(self.name)


class _Joint:
    """Plans by programs of all widths together (see `latency_targets.Planner`)."""

    def __init__(self, looks: Looks, effort: Effort) -> None:
        self._looks, self._effort = looks, effort

    def fitting(self) -> Plan | None:
        """One program."""
        found = self._program().least_latency(self._looks.slack, self._effort)
        return None if found is None else found.plan

    def within(self, latency_s: float) -> Plan | None:
        """One program."""
        found = self._program().least_loss(latency_s, self._effort)
        return None if found is None else found.plan

    def _program(self) -> WidthProgram:
        looks, problem = self._looks, self._looks.problem
        best = min(looks.session.accepted, key=lambda a: a.latency_s)
        return WidthProgram.of(
            problem, looks.widths, problem.loss_model, best.plan, problem.network.touched_groups
        )
