"""The agent: a trained policy plans in a model of the problem, what is verified mends the model,
and so on in turns.

In a turn the policy is rolled out in the model (`imagination`), which costs nothing; the plan it
comes to is measured and
its accuracy asked for, where it promises to be faster than what is verified. A few rounds of search
on the model go on
from there (`surrogate`), each with one true look, and every answer is learnt from, so that the next
turn plans in a better
model. All write into one session, so the fastest plan that any of them verified is the answer.

A study on a simulator had the policy walk the true problem first (`PolicyRollOut`). In replays
of recorded devices that
walk took more evaluations than all of the turns, and what it came to was slower
(`benchmarks/transfer.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.problem import Problem

__all__ = ["PruningAgent"]


@dataclass(frozen=True)
class PruningAgent:
    """See the module (and `searcher.Searcher`).

    Attributes:
        policy: trained before.
        surrogate: of the turns, and of the rounds after each roll-out.
        name: for tables and file names.
    """

    policy: RowPolicy
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    name: str = "agent"

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Takes its turns, until they are done or the budget is spent."""
        session = SearchSession(problem, budget, on_step)
        return (
            SurrogateSearch(self.surrogate)
            .take_turns(problem, session, self._propose)
            .result(self.name)
        )

    def _propose(self, model: Problem) -> tuple[Plan, str]:
        """The plan that the policy comes to in a model of the problem, and the steps that led
        there.
        """
        found = PolicyRollOut(self.policy).search(model, Budget())
        at = {step.plan: n for n, step in enumerate(found.history)}.get(found.best.plan, -1)
        return found.best.plan, "; ".join(
            f"{step.what}: {step.why}" for step in found.history[: at + 1] if step.accepted
        )
