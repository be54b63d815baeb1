"""The agent: a trained policy plans in a model of the problem, what is verified mends the model,
and so on in turns.

In a turn the policy is rolled out in the model (`imagination`), which costs nothing; the plan it
comes to is measured and
its accuracy asked for, where it promises to be faster than what is verified. A few rounds of search
on the model go on
from there (`surrogate`), each with one true look, and every answer is learnt from, so that the next
turn plans in a better
model. All write into one session, so the fastest plan that any of them verified is the answer.

A study on a simulator had the policy walk the true problem first (`PolicyRollOut`). In rehearsals
of recorded devices that
walk took more evaluations than all of the turns, and what it came to was slower
(`benchmarks/transfer.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cprune_rl.agents.core.searcher import Budget, OnStep, SearchSession
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import RollOut
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.actions.base import Menu
from cprune_rl.envs.problem import Problem

__all__ = ["PolicyRollOut", "PruningAgent"]


class PolicyRollOut:
    """Rolls a trained policy out once, greedily decoded (see `searcher.Searcher`).

    Args:
        policy: trained before; reads tables of `policy.observation_space.shape[0]` rows.
        max_rejections: the roll-out ends after so many.
        menu: that it was trained on; narrower groups where not given.
    """

    name = "roll-out"

    def __init__(
        self, policy: RowPolicy, max_rejections: int = 8, menu: Menu | None = None
    ) -> None:
        self._policy, self._max_rejections, self._menu = policy, max_rejections, menu

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """One roll-out."""
        session = SearchSession(problem, budget, on_step)
        RollOut(
            problem,
            session,
            self._policy.observation_space.shape[0],
            max_rejections=self._max_rejections,
            menu=self._menu,
        ).run(self._choose)
        return session.result(self.name)

    def _choose(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> tuple[int, str]:
        action, _ = self._policy.predict(observation, action_masks=mask, deterministic=True)
        learned, analytic = self._policy.explain(observation, int(action))
        return int(action), f"score {analytic:+.1f}, learned {learned:+.1f}"


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
