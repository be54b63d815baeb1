"""Every search method by name: what it is, what it needs, and where its class is.

Classes are named by strings, so that reading the table loads neither torch nor a solver. A method
that reads predictions is charged with the uniform plan that a live run measures for them. A trained
policy is charged with its training, if it serves one problem alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.search_result import current_method
from cprune_rl.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from cprune_rl.agents.core.searcher import Searcher
    from cprune_rl.agents.planner.surrogate import SurrogateSettings
    from cprune_rl.agents.planner.verified_search import VerifiedSettings
    from cprune_rl.agents.rl.policy import RowPolicy

__all__ = [
    "METHODS",
    "POLICY_KINDS",
    "Method",
    "SearchEffort",
    "check_run_methods",
    "compared_methods",
    "make_searcher",
]

POLICY_KINDS = ("transferred", "scratch", "finetuned", "mapping")
"""Policies that methods are made with; `comparison.policy_store` trains them."""
_UNCAPPED = 1000  # rejections of proxy greedy: it ends by itself, not by a limit


@dataclass(frozen=True)
class SearchEffort:
    """How much a run lets the agent's searches ask.

    Attributes:
        verified: of those that ask the final gate.
        surrogate: of those that do not.
    """

    verified: VerifiedSettings
    surrogate: SurrogateSettings


@dataclass(frozen=True, kw_only=True)
class Method:
    """One method.

    Attributes:
        description: what it is, with its source.
        entry_point: module below `agents`, and the name of a class or function that makes it.
        options: that it is made with.
        is_seeded: make it with the seed of what it draws.
        settings: arguments that it is made with, each an attribute of `SearchEffort`.
        policy: one of `POLICY_KINDS` that it is made with; None for none.
        warm_start: measure one uniform plan first and charge it to the search. Methods that use
            latency predictions need it.
        has_schemes: measure every kind of scheme first and charge it to the search. Methods that
            prune layers by schemes need it.
        role: "rival"; "control", which shows what a kind of information is worth; or "reference",
            which knows the true losses and is not ranked.
        is_compared: whether comparisons have it.
        is_in_runs: whether a run can have it beside its own method: a run has policies of its own
            for it, or it takes none.
    """

    description: str
    entry_point: str
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    is_seeded: bool = False
    policy: str | None = None
    warm_start: bool = True
    has_schemes: bool = False
    role: str = "rival"
    is_compared: bool = True
    is_in_runs: bool = True


_AGENT_SETTINGS = {"verified": "verified", "surrogate": "surrogate"}

METHODS: dict[str, Method] = {
    "agent": Method(
        description="this project's agent: it plans by a belief that cheap and full answers "
        "correct, with a policy that never met the family",
        entry_point="planner.agent:PruningAgent",
        settings=_AGENT_SETTINGS,
        policy="transferred",
    ),
    "best": Method(
        description="MDP, CPrune and the agent, each with a third of the budget: the fastest plan "
        "of all that passes",
        entry_point="planner.best_of_methods:best_of_methods",
        settings=_AGENT_SETTINGS,
        policy="transferred",
    ),
    "ppo-transferred": Method(
        description="the same policy alone, rolled out once on the problem",
        entry_point="rl.rollout:PolicyRollOut",
        policy="transferred",
        is_in_runs=False,
    ),
    "ppo-finetuned": Method(
        description="that policy trained on in a model of the problem, rolled out once",
        entry_point="rl.rollout:PolicyRollOut",
        policy="finetuned",
        is_in_runs=False,
    ),
    "ppo": Method(
        description="a policy trained from scratch in a model of the problem, rolled out once",
        entry_point="rl.rollout:PolicyRollOut",
        policy="scratch",
        is_in_runs=False,
    ),
    "best-of-k": Method(
        description="eight walks of the transferred policy, seven of them drawn",
        entry_point="rl.best_of_walks:BestOfWalks",
        is_seeded=True,
        policy="transferred",
        is_in_runs=False,
    ),
    "surrogate": Method(
        description="rounds of search on a model that cheap answers alone correct (0.2's agent)",
        entry_point="planner.surrogate:surrogate_alone",
        is_seeded=True,
    ),
    "verified": Method(
        description="the agent without its policy: cheap and full answers correct one belief",
        entry_point="planner.verified_search:VerifiedSearch",
        settings={"settings": "verified"},
        is_seeded=True,
    ),
    "proxy-greedy": Method(
        description="adaptive proxy greedy, no limit to its rejections",
        entry_point="baselines.proxy_greedy:ProxyGreedy",
        options={"max_rejections": _UNCAPPED},
    ),
    "cprune": Method(
        description="CPrune (Kim et al., ECCV 2022), repaired",
        entry_point="baselines.cprune:CPrune",
        warm_start=False,
    ),
    "cprune-published": Method(
        description="CPrune as its authors coded it, 70 trials for each task of each candidate",
        entry_point="baselines.cprune_published:PublishedCPrune",
        warm_start=False,
    ),
    "rb-cprune": Method(
        description="CPrune by predicted latencies; its winner, and what it may back off to, are "
        "measured",
        entry_point="baselines.ablations:cprune_by_prediction",
    ),
    "netadapt": Method(
        description="NetAdapt (Yang et al., ECCV 2018)",
        entry_point="baselines.netadapt:NetAdapt",
    ),
    "halp": Method(
        description="HALP (Shen et al., NeurIPS 2022): a knapsack of latency and saliency",
        entry_point="baselines.halp:HALP",
    ),
    "mdp": Method(
        description="MDP (Sun et al., 2024): the same with latency by channels read and written "
        "together",
        entry_point="baselines.mdp:MDP",
    ),
    "fastnas": Method(
        description="FastNAS (NVIDIA Model Optimizer): a sensitivity map and a bisection",
        entry_point="baselines.fastnas:FastNAS",
    ),
    "amc": Method(
        description="AMC (He et al., ECCV 2018): a ratio for layer by layer, DDPG",
        entry_point="baselines.amc:AMC",
        is_seeded=True,
    ),
    "bayes": Method(
        description="Bayesian optimisation by Optuna's constrained TPE",
        entry_point="baselines.bayesian:Bayes",
        is_seeded=True,
    ),
    "evolution": Method(
        description="regularised evolution (Real et al., AAAI 2019)",
        entry_point="baselines.evolution:Evolution",
        is_seeded=True,
        warm_start=False,
    ),
    "annealing": Method(
        description="simulated annealing over measured plans",
        entry_point="baselines.annealing:Annealing",
        is_seeded=True,
        warm_start=False,
    ),
    "random": Method(
        description="random plans that are predicted to use about the slack",
        entry_point="baselines.random_search:RandomSearch",
        is_seeded=True,
        warm_start=False,
    ),
    "uniform": Method(
        description="the same share of every group, from wide to narrow",
        entry_point="baselines.uniform:Uniform",
        warm_start=False,
    ),
    "mapping-rule": Method(
        description="a scheme for each layer by rule (Gong et al., 2021)",
        entry_point="schemes.rule:MappingRule",
        warm_start=False,
        has_schemes=True,
    ),
    "mapping-search": Method(
        description="the same by search: rule, then turns of planning in a model by a policy of "
        "the scheme environment",
        entry_point="schemes.search:MappingSearch",
        settings={"surrogate": "surrogate"},
        is_seeded=True,
        policy="mapping",
        warm_start=False,
        has_schemes=True,
    ),
    "mapping-rounds": Method(
        description="that search without a policy",
        entry_point="schemes.search:MappingSearch",
        options={"name": "mapping-rounds"},
        settings={"surrogate": "surrogate"},
        is_seeded=True,
        warm_start=False,
        has_schemes=True,
    ),
    "mapping-published": Method(
        description="a scheme for each layer by policy gradient, layer by layer (Gong et al., "
        "2021)",
        entry_point="schemes.published:PublishedMapping",
        is_seeded=True,
        warm_start=False,
        has_schemes=True,
    ),
    "channels-then-schemes": Method(
        description="the agent, then the search of schemes in what it leaves, then both together",
        entry_point="schemes.search:ChannelsThenSchemes",
        policy="mapping",
        has_schemes=True,
        is_compared=False,
    ),
    "channels-then-rule": Method(
        description="the agent, then schemes by rule in what it leaves",
        entry_point="schemes.search:ChannelsThenSchemes",
        policy="transferred",
        has_schemes=True,
        is_compared=False,
    ),
    "agent-macs": Method(
        description="control: the agent by multiply-accumulates in the place of latency",
        entry_point="baselines.ablations:agent_by_macs",
        policy="transferred",
        role="control",
        is_in_runs=False,
    ),
    "agent-shuffled": Method(
        description="control: the agent with latencies shuffled between kinds of tasks",
        entry_point="baselines.ablations:agent_by_shuffled_tasks",
        is_seeded=True,
        policy="transferred",
        role="control",
        is_in_runs=False,
    ),
    "exact": Method(
        description="reference: the optimum over the dense network's legal widths, all latencies "
        "and losses known",
        entry_point="baselines.exact:Exact",
        role="reference",
        is_in_runs=False,
    ),
}


def compared_methods(names: Iterable[str] = ("all",)) -> list[str]:
    """List methods of comparisons in the order of the table, each once.

    Args:
        names: some of them, or `all`.

    Raises:
        UnknownNameError: there is no such method.
    """
    compared = [name for name, method in METHODS.items() if method.is_compared]
    asked = {current_method(name, warns=True) for name in names}
    for name in asked - {"all"}:
        if name not in compared:
            raise UnknownNameError("method", name, [*compared, "all"])
    return compared if "all" in asked else [name for name in compared if name in asked]


def check_run_methods(names: Iterable[str], has_schemes: bool) -> None:
    """Check that a run can have methods beside its own: they must know nothing that it does not.

    Args:
        names: of methods.
        has_schemes: whether the run measures layers that are pruned by schemes.

    Raises:
        ConfigError: one needs a policy of its own, the truth, or schemes in a run without them.
        UnknownNameError: there is no such method.
    """
    allowed = [name for name, method in METHODS.items() if method.is_in_runs]
    for name in names:
        if name not in METHODS:
            raise UnknownNameError("method", name, allowed)
        if name not in allowed:
            raise ConfigError(
                f"--methods {name}: a run has one policy, its own method's, and no true losses. "
                f"It can have: {', '.join(allowed)}"
            )
        if METHODS[name].has_schemes and not has_schemes:
            raise ConfigError(
                f"--methods {name} prunes layers by schemes: give --change schemes, so that "
                "their latencies are measured and the oracle is calibrated on them"
            )


def make_searcher(
    name: str,
    *,
    seed: int,
    policy: RowPolicy | None = None,
    truth: LossModel | None = None,
    effort: SearchEffort | None = None,
) -> Searcher:
    """Make a method.

    Args:
        name: of `METHODS`.
        seed: of what it draws.
        policy: of the kind that it asks for.
        truth: of the losses; for a reference alone.
        effort: how much it may ask; each method's own default where not given.
    """
    method = METHODS[name]
    arguments = dict(method.options)
    if effort is not None:
        arguments |= {name: getattr(effort, of) for name, of in method.settings.items()}
    if method.is_seeded:
        arguments["seed"] = seed
    if method.policy is not None:
        arguments["policy"] = policy
    if method.role == "reference":
        arguments["truth"] = truth
    module, _, maker = method.entry_point.partition(":")
    searcher: Searcher = getattr(importlib.import_module(f"cprune_rl.agents.{module}"), maker)(
        **arguments
    )
    return searcher
