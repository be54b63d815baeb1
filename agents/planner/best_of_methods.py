"""MDP, CPrune and the agent within one budget, for who wants to be behind none of them.

Each gets a third of what there is. What the first two find the agent learns from, and their plans
are candidates of its own. All that the three ask for is charged.
"""

from __future__ import annotations

from dataclasses import dataclass

from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.mdp import MDP
from cprune_rl.agents.core.searcher import Searcher
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.planner.surrogate import SurrogateSettings
from cprune_rl.agents.planner.verified_search import VerifiedSettings
from cprune_rl.agents.rl.policy import RowPolicy

__all__ = ["BestOfMethods", "best_of_methods"]


@dataclass(frozen=True)
class BestOfMethods(SessionSearcher):
    """Searches by rivals first, and by the agent last.

    Attributes:
        agent: learns from what the session has, and has the final gate's answer where a search may
            ask.
        rivals: in their order.
        name: for tables and file names.
    """

    agent: SessionSearcher
    rivals: tuple[Searcher, ...] = (MDP(), CPrune())
    name: str = "best"

    def run(self, session: SearchSession) -> None:
        """Share what is left of the budget among those who have not searched yet."""
        for number, rival in enumerate(self.rivals):
            n_left = len(self.rivals) - number + 1
            rival.search(session.problem, session.left.share(1 / n_left), session.record)
        self.agent.run(session)


def best_of_methods(
    policy: RowPolicy,
    verified: VerifiedSettings | None = None,
    surrogate: SurrogateSettings | None = None,
) -> BestOfMethods:
    """Make it with the agent.

    Args:
        policy: the agent's.
        verified: settings of the agent's search that asks the gate.
        surrogate: the same where it may not.
    """
    agent = PruningAgent(policy, verified or VerifiedSettings(), surrogate or SurrogateSettings())
    return BestOfMethods(agent)
