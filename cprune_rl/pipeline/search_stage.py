"""A run's searches: who searches, with which policy, within which budget, and what it is charged
with.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace

from torch.utils.tensorboard import SummaryWriter

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget, Searcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.planner.surrogate import SurrogateSettings
from cprune_rl.agents.policies import find_policy, open_policy
from cprune_rl.agents.registry import METHODS, make_searcher
from cprune_rl.agents.rl.policy import RowPolicy, load_policy, save_policy
from cprune_rl.agents.rl.training import TrainingSettings, train_policy
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.agents.schemes.search import ChannelsThenSchemes, MappingSearch
from cprune_rl.core.search_result import SearchResult
from cprune_rl.envs.actions.base import ActionSet
from cprune_rl.envs.actions.channel_steps import ChannelActions
from cprune_rl.envs.actions.layer_schemes import START_RATIOS, SchemeActions
from cprune_rl.envs.problems.generated import GeneratedProblems, GeneratorSettings, ProblemSource
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.search_logger import SearchLogger

__all__ = ["read_search", "search"]

_OLD_LABEL = ("cprune", "greedy")  # 0.2 named the method's file by the latter


def search(
    context: RunContext,
    folder: RunFolder,
    progress: ProgressLog,
    method: str,
    label: str | None = None,
) -> SearchResult:
    """One search, or what the folder has of it.

    Args:
        context: the run's parts.
        folder: keeps the result, and the policy.
        progress: told of each candidate.
        method: of `registry.METHODS`.
        label: what the folder calls the search; the method's name where not given.

    Raises:
        CPruneError: the device is gone, or there is no such policy.
    """
    label = label or method
    name = f"search_{label}.json"
    restored = read_search(folder, label)
    if restored is not None:
        return restored
    searcher, extra = _searcher(context, folder, progress, method)
    problem = context.problem()
    with (
        SummaryWriter(str(folder.file("tensorboard"))) as writer,
        progress.track(f"Searching with {label}, % of the slack used", 100) as advance,
    ):
        result, _ = search_within(
            searcher,
            problem,
            _budget(context, extra, progress),
            SearchLogger(problem, folder, progress, writer, label, advance),
        )
    cost = {
        name: result.cost.get(name, 0.0) + extra.get(name, 0.0) for name in {**result.cost, **extra}
    }
    result = replace(result, cost=cost)
    folder.write_json(name, result.to_json())
    return result


def read_search(folder: RunFolder, label: str) -> SearchResult | None:
    """Read what a folder has of a search; None where it has nothing yet."""
    value = folder.read_json(f"search_{label}.json")
    if value is None:
        value = folder.read_json(f"search_{label.replace(*_OLD_LABEL)}.json")
    return None if value is None else SearchResult.from_json(value)


def _searcher(
    context: RunContext, folder: RunFolder, progress: ProgressLog, method: str
) -> tuple[Searcher, dict[str, float]]:
    """Who searches, and what was spent for it beforehand: each method pays for what it reads."""
    described = METHODS[method]
    spent = _sum(
        {"policy_s": 0.0},
        context.model_cost if described.warm_start else {},
        context.scheme_cost if described.has_schemes else {},
    )
    if described.policy is None:
        return make_searcher(method, seed=context.config.seed), spent
    turns = SurrogateSettings(turns=context.config.budgets.turns)
    if method == "mapping-search":
        policy, seconds = _mapping_policy(context, folder, progress)
        return MappingSearch(policy, turns), _sum(spent, {"policy_s": seconds})
    policy, seconds = _policy(context, folder, progress)
    spent = _sum(spent, {"policy_s": seconds})
    agent = PruningAgent(policy, turns)
    if method == "agent":
        return agent, spent
    if method == "channels-then-rule":
        return ChannelsThenSchemes(channels=agent, schemes=MappingRule(), name=method), spent
    policy, seconds = _mapping_policy(context, folder, progress)
    both = ChannelsThenSchemes(
        channels=agent, schemes=MappingSearch(policy, turns), surrogate=turns, name=method
    )
    return both, _sum(spent, {"policy_s": seconds})


def _sum(*costs: Mapping[str, float]) -> dict[str, float]:
    return {
        name: sum(c.get(name, 0.0) for c in costs)
        for name in dict.fromkeys(n for c in costs for n in c)
    }


def _budget(context: RunContext, spent: dict[str, float], progress: ProgressLog) -> Budget:
    """What the search itself may spend: what it was charged with before is taken off."""
    config = context.config

    def left(limit: int | None, name: str) -> int | None:
        if limit is None:
            return None
        if spent.get(name, 0) >= limit:
            progress.print(
                f"    The budget of {limit} {name.replace('_', ' ')} went into what an agent has to know before it searches ({spent[name]:.0f}): nothing is searched"
            )
        return max(0, int(limit - spent.get(name, 0)))

    return Budget(
        left(config.max_trials, "fresh_trials"),
        left(config.max_evaluations, "accuracy_evaluations"),
        config.max_minutes,
    )


def _policy(
    context: RunContext, folder: RunFolder, progress: ProgressLog
) -> tuple[RowPolicy, float]:
    """The agent's policy, trained on variations of this problem, taken as it was given, or read
    from the folder; and the seconds its training took.
    """
    return _policy_of(
        context,
        folder,
        progress,
        "policy",
        ChannelActions(),
        context.config.policy,
        context.config.init,
    )


def _mapping_policy(
    context: RunContext, folder: RunFolder, progress: ProgressLog
) -> tuple[RowPolicy, float]:
    """The same of the policy that gives layers schemes."""
    return _policy_of(
        context,
        folder,
        progress,
        "mapping_policy",
        SchemeActions(),
        context.config.mapping_policy,
        None,
    )


def _policy_of(
    context: RunContext,
    folder: RunFolder,
    progress: ProgressLog,
    name: str,
    action_set: ActionSet,
    given: str | None,
    init: str | None,
) -> tuple[RowPolicy, float]:
    max_rows = max(TrainingSettings.max_rows, len(context.network.subgraphs))
    budgets, is_mapping = context.config.budgets, isinstance(action_set, SchemeActions)
    settings = TrainingSettings(
        total_timesteps=budgets.mapping_timesteps if is_mapping else budgets.total_timesteps,
        seed=context.config.seed,
        max_rows=max_rows,
    )
    target = folder.file(name)
    if given is not None:
        if not target.exists():
            shutil.copytree(
                find_policy(given),
                target,
                ignore=shutil.ignore_patterns("tensorboard", "*.pt", "*.zip"),
            )
        return load_policy(target, max_rows, action_set), 0.0
    if not (target / "policy.json").exists():
        source = ProblemSource(
            name=context.network.name,
            network=context.network,
            interpolator=context.backend.interpolator,
            loss_model=context.loss_model,
            dense_accuracy=context.dense_accuracy,
            descriptor=context.backend.descriptor,
        )
        start_ratios = START_RATIOS if is_mapping and context.config.schemes == "both" else ()
        problems = GeneratedProblems.from_source(
            source, GeneratorSettings(start_ratios=start_ratios)
        )
        start = None if init is None else open_policy(init, max_rows)
        started = time.perf_counter()
        what = (
            "Training the mapping's agent on a model of the problem"
            if is_mapping
            else "Training the agent on a model of the problem"
        )
        with progress.track(what, settings.total_timesteps) as advance:
            trained = train_policy(
                problems,
                settings,
                folder.file("tensorboard"),
                advance,
                start=start,
                action_set=action_set,
            )
        card = {
            "network": context.network.name,
            "data": context.data.name,
            "device": context.backend.device_name,
            "total_timesteps": settings.total_timesteps,
            "seed": settings.seed,
            "init": init,
            "train_s": round(time.perf_counter() - started, 1),
        }
        target.mkdir(exist_ok=True)
        trained.algorithm.save(target / "sb3.zip")
        save_policy(trained.policy, target, card, action_set)
    card = json.loads((target / "policy.json").read_text())["card"]
    return load_policy(target, max_rows, action_set), float(card.get("train_s", 0.0))
