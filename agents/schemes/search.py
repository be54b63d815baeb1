"""A scheme for each layer by search:

the rule first, then turns of planning in a model by a policy of the scheme environment, and rounds
of search on it.

The same agent as the one that narrows groups (`agent`), on another set of actions: a turn begins with the
plan that the policy comes to
in a model of the problem, what is verified mends the model, annealing goes on over the schemes of
single layers, which tasks need not
share. The rule's plans (`mapping_rule`) are in the same session, so that the search is never slower
than the rule among what held in the loop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget, OnStep, Searcher, SearchSession
from cprune_rl.agents.planner.moves import JointSpace, PlanSpace, SchemeSpace
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchResult, SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.actions.layer_schemes import SchemeActions
from cprune_rl.envs.problem import Problem

__all__ = ["ChannelsThenSchemes", "MappingSearch"]


@dataclass(frozen=True)
class MappingSearch:
    """See the module (and `searcher.Searcher`).

    Attributes:
        policy: trained on the scheme environment; None leaves the planning to the rounds.
        surrogate: of the turns and rounds.
        name: for tables and file names.
    """

    policy: RowPolicy | None = None
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    name: str = "mapping-search"

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """Begins with the rule, and takes its turns until they are done or the budget is spent."""
        session = SearchSession(problem, budget, on_step)
        session.start(problem.measured_s(problem.network.dense))
        MappingRule().search(
            problem, budget, session.record
        )  # it ends by itself, after ten looks or so
        if not problem.network.scheme_layers or session.is_spent:
            return session.result(self.name)
        search = SurrogateSearch(self.surrogate, _schemes)
        return search.take_turns(
            problem, session, self._propose if self.policy is not None else None
        ).result(self.name)

    def _propose(self, model: Problem) -> tuple[Plan, str]:
        """The plan that the policy comes to in a model of the problem, and the steps that led
        there.
        """
        assert self.policy is not None
        found = PolicyRollOut(self.policy, action_set=SchemeActions()).search(model, Budget())
        at = {step.plan: n for n, step in enumerate(found.history)}.get(found.best.plan, -1)
        return found.best.plan, "; ".join(
            f"{step.what}: {step.why}" for step in found.history[: at + 1] if step.accepted
        )


@dataclass(frozen=True)
class ChannelsThenSchemes:
    """Prunes channels, then the whole network by schemes, then by schemes what channels leave, then
    both together (see `searcher.Searcher`).

    What each search found is an answer too: nothing is lost by looking further.

    Attributes:
        channels: the first search.
        schemes: begins twice, with all channels, and with the fastest of the first one's plans that
            used no more than its share of the slack.
        share: of the slack; and of the budget that the first may use.
        surrogate: of a last turn, on channels and schemes together; None leaves it out.
        name: for tables and file names.
    """

    channels: Searcher
    schemes: Searcher
    share: float = 0.5
    surrogate: SurrogateSettings | None = None
    name: str = "channels-then-schemes"

    def search(
        self, problem: Problem, budget: Budget, on_step: OnStep | None = None
    ) -> SearchResult:
        """One after the other (see `searcher.Searcher`);

        whatever holds the problem's own floor is an answer.
        """
        session = SearchSession(problem, budget, on_step)
        session.start(problem.measured_s(problem.network.dense))

        def note(step: SearchStep) -> None:
            if step.accepted and any(step.plan == a.plan for a in session.accepted):
                return  # where the second search begins
            holds = (
                step.accuracy is not None
                and math.isfinite(step.latency_s)
                and step.accuracy >= problem.floor
            )
            session.record(replace(step, accepted=step.accepted or holds))

        first, _ = search_within(self.channels, problem, budget.part(self.share), note)
        kept = problem.dense_accuracy - self.share * (problem.dense_accuracy - problem.floor)
        start = min(
            (a for a in first.accepted if a.accuracy >= kept),
            key=lambda a: a.latency_s,
            default=first.accepted[0],
        )
        starts = dict.fromkeys((first.accepted[0].plan, start.plan))
        for n_done, plan in enumerate(starts):
            if not session.is_spent:
                self.schemes.search(
                    replace(problem, start=plan),
                    session.left.part(1 / (len(starts) - n_done)),
                    note,
                )
        if self.surrogate is not None and problem.network.scheme_layers and not session.is_spent:
            SurrogateSearch(self.surrogate, _both).refine(problem, session)
        return session.result(self.name)


def _schemes(problem: Problem, _: SubgraphTable) -> PlanSpace:
    return SchemeSpace(problem.network, problem.start_plan.widths)


def _both(problem: Problem, table: SubgraphTable) -> PlanSpace:
    return JointSpace(problem.network, table.steps)
