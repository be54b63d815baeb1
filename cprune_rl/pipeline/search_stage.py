"""Searches a run's problem: by which method, and at what price.

A method is charged with what it has to know before it searches, such as the fine-tune of the dense
network, measurements of narrower tasks, or the training of its policy. Its budget pays for the
trials among them too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget, OnStep, Searcher
from cprune_rl.agents.registry import METHODS, SearchEffort, make_searcher
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.schemes.search import ChannelsThenSchemes
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_actions import ChannelActions
from cprune_rl.envs.actions.scheme_actions import SchemeActions
from cprune_rl.envs.problem import Problem
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.policy_stage import RunPolicy
from cprune_rl.pipeline.progress import ProgressLog

__all__ = ["ChargedSearcher", "SearchSettings", "charge_searcher", "search"]

# Of the policies that methods of a run are made with.
_ACTIONS: dict[str, ActionSet] = {"transferred": ChannelActions(), "mapping": SchemeActions()}
# What searches the schemes after the agent.
_CHANNELS_THEN = {
    "channels-then-rule": "mapping-rule",
    "channels-then-schemes": "mapping-search",
}
PolicyFor = Callable[[ActionSet], RunPolicy]


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How much a search may do.

    Attributes:
        budget: what it may spend.
        effort: how much the agent's searches may ask.
        seed: of what methods draw.
    """

    budget: Budget
    effort: SearchEffort
    seed: int


@dataclass(frozen=True)
class ChargedSearcher:
    """A search method, and what was spent for it beforehand."""

    searcher: Searcher
    cost: Mapping[str, float]


def charge_searcher(
    method: str, context: RunContext, settings: SearchSettings, policy_for: PolicyFor
) -> ChargedSearcher:
    """Make a search method and add up what it is charged with.

    Args:
        method: a name of `agents.registry`.
        policy_for: gives the policy that chooses among some actions.

    Raises:
        CPruneError: there is no such policy.
    """
    described = METHODS[method]
    cost = _total(
        {"policy_s": 0.0, "train_s": context.dense.train_s},
        context.backend.spent if described.warm_start else {},
        context.backend.spent_on_schemes if described.has_schemes else {},
    )
    policies: list[RunPolicy] = []

    def policy_of(action_set: ActionSet) -> RowPolicy:
        policies.append(policy_for(action_set))
        return policies[-1].policy

    searcher = _make_searcher(method, settings, policy_of)
    cost = _total(cost, *({"policy_s": policy.train_s} for policy in policies))
    return ChargedSearcher(searcher, cost)


def _make_searcher(
    method: str, settings: SearchSettings, policy_of: Callable[[ActionSet], RowPolicy]
) -> Searcher:
    if method in _CHANNELS_THEN:
        agent = _make_searcher("agent", settings, policy_of)
        schemes = _make_searcher(_CHANNELS_THEN[method], settings, policy_of)
        is_joint = method == "channels-then-schemes"
        return ChannelsThenSchemes(
            channels=agent,
            schemes=schemes,
            surrogate=settings.effort.surrogate if is_joint else None,
            name=method,
        )
    kind = METHODS[method].policy
    return make_searcher(
        method,
        seed=settings.seed,
        policy=None if kind is None else policy_of(_ACTIONS[kind]),
        effort=settings.effort,
    )


def search(
    charged: ChargedSearcher,
    problem: Problem,
    budget: Budget,
    on_step: OnStep,
    progress: ProgressLog,
) -> SearchResult:
    """Search a problem with what is left of a budget, and add what the method is charged with.

    Args:
        on_step: called with each candidate.

    Raises:
        DeviceError: the device is gone.
    """
    left = Budget(
        fresh_trials=_left(budget.fresh_trials, "fresh_trials", charged.cost, progress),
        accuracy_evaluations=_left(
            budget.accuracy_evaluations, "accuracy_evaluations", charged.cost, progress
        ),
        minutes=budget.minutes,
        full_finetunes=budget.full_finetunes,
    )
    result, _ = search_within(charged.searcher, problem, left, on_step)
    return replace(result, cost=_total(result.cost, charged.cost))


def _total(*costs: Mapping[str, float]) -> dict[str, float]:
    names = dict.fromkeys(name for cost in costs for name in cost)
    return {name: sum(cost.get(name, 0.0) for cost in costs) for name in names}


def _left(
    limit: int | None, name: str, spent: Mapping[str, float], progress: ProgressLog
) -> int | None:
    """Take what was spent before off a limit."""
    if limit is None:
        return None
    before = spent.get(name, 0)
    if before >= limit:
        progress.print(
            f"    The budget of {limit} {name.replace('_', ' ')} went into what an agent has to "
            f"know before it searches ({before:.0f}): nothing is searched"
        )
    return max(0, int(limit - before))
