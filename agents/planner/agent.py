"""The agent: it plans in a model of the problem, and what is verified corrects the model.

Where a search may ask the final gate, it goes as `verified_search` says: a few cheap answers and a
few full fine-tunes, one belief that learns from both, and the policy's plan among the candidates.
The policy is rolled out in the model (`model_problem`), which costs nothing.

Where it may not, it works in turns (`surrogate`): the policy's plan first, then a few rounds of
search on the model, each of which evaluates one plan. The fastest that held is the answer.

In replays of recorded devices, a walk of the policy through the problem itself came to slower plans
than these turns, with more evaluations than all of them (`benchmarks/transfer.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.planner.verified_search import Propose, VerifiedSearch, VerifiedSettings
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
        verified: settings of the search that asks the gate.
        surrogate: settings of the turns, and of the rounds after each roll-out.
        name: for tables and file names.
    """

    policy: RowPolicy
    verified: VerifiedSettings = field(default_factory=VerifiedSettings)
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    name: str = "agent"

    def run(self, session: SearchSession) -> None:
        """Search until nothing promises to be faster, or the budget is spent."""
        propose = proposals_of(self.policy)
        if session.problem.full_finetunes is not None:
            VerifiedSearch(self.verified, propose).run(session)
        else:
            SurrogateSearch(self.surrogate).take_turns(session, propose)
