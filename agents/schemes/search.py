"""A scheme for each layer by search: the rule first, then turns of planning in a model.

It is the agent that narrows groups (`planner.agent`) with another set of actions. A turn begins
with the plan that a policy of the scheme environment comes to in a model of the problem. What is
verified corrects the model, and annealing goes on over the schemes of single layers, which tasks
need not share. The rule's plans (`rule`) are in the same session: the search is never slower than
the rule among what held in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Searcher
from cprune_rl.agents.core.session import SearchSession, SessionSearcher
from cprune_rl.agents.planner.agent import proposals_of
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.planning.plan_spaces import JointSpace, PlanSpace, SchemeSpace
from cprune_rl.envs.problem import Problem

__all__ = ["ChannelsThenSchemes", "MappingSearch"]


@dataclass(frozen=True)
class MappingSearch(SessionSearcher):
    """Searches schemes of layers, from the rule on.

    Attributes:
        policy: trained on the scheme environment; None leaves the planning to the rounds.
        surrogate: settings of the turns and rounds.
        seed: of the annealing.
        name: for tables and file names.
    """

    policy: RowPolicy | None = None
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    seed: int = 0
    name: str = "mapping-search"

    def run(self, session: SearchSession) -> None:
        """Begin with the rule; take turns until they are done or the budget is spent."""
        # The rule ends by itself, after about ten plans.
        MappingRule().search(session.problem, session.budget, session.record)
        if not session.problem.network.scheme_layers or session.is_spent:
            return
        propose = None if self.policy is None else proposals_of(self.policy, SchemeActions())
        search = SurrogateSearch(self.surrogate, _scheme_space, self.seed)
        search.take_turns(session, propose)


@dataclass(frozen=True, kw_only=True)
class ChannelsThenSchemes(SessionSearcher):
    """Prunes channels, then layers by schemes, then both together.

    The schemes are searched twice: of the whole network, and of what the channels leave. What each
    search found is an answer too: nothing is lost by going on.

    Attributes:
        channels: the first search.
        schemes: begins twice: with all channels, and with the fastest of the first search's plans
            that used no more than its share of the slack.
        share: of the slack, and of the budget, that the first may use.
        surrogate: settings of a last turn, on channels and schemes together; None leaves it out.
        name: for tables and file names.
    """

    channels: Searcher
    schemes: Searcher
    share: float = 0.5
    surrogate: SurrogateSettings | None = None
    name: str = "channels-then-schemes"

    def run(self, session: SearchSession) -> None:
        """Run one search after the other; whatever holds the problem's own floor is an answer."""
        problem = session.problem

        def record(step: SearchStep) -> None:
            if step.accepted and any(step.plan == a.plan for a in session.accepted):
                return  # where the second search begins
            is_measured = math.isfinite(step.latency_s)
            holds = step.accuracy is not None and problem.holds(step.accuracy)
            session.record(replace(step, accepted=step.accepted or (holds and is_measured)))

        budget = session.budget.share(self.share)
        # The final gate is for the whole network: it is not asked before there are schemes.
        channels_alone = replace(problem, full_finetunes=None)
        first, _ = search_within(self.channels, channels_alone, budget, on_step=record)
        starts = list(dict.fromkeys((problem.network.dense, self._start(first, problem).plan)))
        for n_done, plan in enumerate(starts):
            if not session.is_spent:
                left = session.left.share(1 / (len(starts) - n_done))
                self.schemes.search(replace(problem, start=plan), left, record)
        if self.surrogate is not None and problem.network.scheme_layers and not session.is_spent:
            SurrogateSearch(self.surrogate, _joint_space).take_turn(session)

    def _start(self, first: SearchResult, problem: Problem) -> AcceptedPlan:
        """Find the fastest plan of the first search that leaves the rest of the slack."""
        kept = problem.dense_accuracy - self.share * problem.slack
        leaving = [a for a in first.accepted if a.accuracy >= kept]
        return min(leaving, key=lambda a: a.latency_s, default=first.accepted[0])


def _scheme_space(problem: Problem, _: SubgraphTable) -> PlanSpace:
    return SchemeSpace(problem.network, problem.start_plan.widths)


def _joint_space(problem: Problem, table: SubgraphTable) -> PlanSpace:
    return JointSpace(problem.network, table.steps)
