"""The agent: a trained policy plans in a model of the problem, and what is verified corrects it.

It works in turns. The policy is rolled out in the model (`model_problem`), which costs nothing. The
plan it comes to is measured and evaluated, where it promises to be faster than what is verified. A
few rounds of search on the model follow (`surrogate`), each of which verifies one plan. Every
answer is learnt from, so the next turn plans in a better model. The fastest plan that any of them
verified is the answer.

In replays of recorded devices, a walk of the policy through the problem itself came to slower plans
than these turns, with more evaluations than all of them (`benchmarks/transfer.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.surrogate import Propose, SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.core.network import Plan
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.problem import Problem

__all__ = ["PruningAgent", "proposals_of"]


def proposals_of(policy: RowPolicy, action_set: ActionSet | None = None) -> Propose:
    """Let a policy propose plans: those that it comes to in a model of the problem.

    Args:
        policy: trained before.
        action_set: that it was trained on; narrower groups where not given.
    """
    walk = PolicyRollOut(policy, action_set=action_set)

    def propose(model: Problem) -> tuple[Plan, str]:
        result = walk.search(model, Budget())
        plan = result.best.plan
        tried = [step.plan for step in result.history]
        n_steps = tried.index(plan) + 1 if plan in tried else 0
        steps = [step for step in result.history[:n_steps] if step.accepted]
        return plan, "; ".join(f"{step.what}: {step.why}" for step in steps)

    return propose


@dataclass(frozen=True)
class PruningAgent(SessionSearcher):
    """The agent for widths of groups.

    Attributes:
        policy: trained before.
        surrogate: settings of the turns, and of the rounds after each roll-out.
        name: for tables and file names.
    """

    policy: RowPolicy
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    name: str = "agent"

    def run(self, session: SearchSession) -> None:
        """Take turns until they are done or the budget is spent."""
        SurrogateSearch(self.surrogate).take_turns(session, proposals_of(self.policy))
