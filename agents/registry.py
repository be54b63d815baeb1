"""The methods that are compared, by name:

what each is, what it is told beforehand, and how it is made.

All stand behind `agents.searcher.Searcher`. Whoever reads cheap looks is charged with the uniform
plan that a live run measures
for them; a trained policy with its training, if it serves one problem alone. Called by
`cprune_rl.comparison`, and by a run for its rivals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cprune_rl.agents.baselines.ablations import (
    agent_by_macs,
    agent_by_shuffled_tasks,
    cprune_by_prediction,
)
from cprune_rl.agents.baselines.amc import AMC, AMCSettings
from cprune_rl.agents.baselines.annealing import Annealing
from cprune_rl.agents.baselines.bayesian import Bayes
from cprune_rl.agents.baselines.cprune import CPrune
from cprune_rl.agents.baselines.cprune_published import PublishedCPrune
from cprune_rl.agents.baselines.evolution import Evolution
from cprune_rl.agents.baselines.exact import Exact
from cprune_rl.agents.baselines.fastnas import FastNAS
from cprune_rl.agents.baselines.halp import HALP
from cprune_rl.agents.baselines.mdp import MDP
from cprune_rl.agents.baselines.netadapt import NetAdapt
from cprune_rl.agents.baselines.proxy_greedy import ProxyGreedy
from cprune_rl.agents.baselines.random_search import RandomSearch
from cprune_rl.agents.baselines.uniform import Uniform
from cprune_rl.agents.core.searcher import Searcher
from cprune_rl.agents.planner.agent import PruningAgent
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.rl.best_of_walks import BestOfWalks
from cprune_rl.agents.rl.policy import RowPolicy
from cprune_rl.agents.rl.rollout import PolicyRollOut
from cprune_rl.agents.schemes.published import PublishedMapping, PublishedSettings
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.agents.schemes.search import MappingSearch
from cprune_rl.core.loss_model import LossModel
from cprune_rl.core.search_result import current_method
from cprune_rl.errors import ConfigError, UnknownNameError

__all__ = ["METHODS", "OF_RUNS", "Method", "MethodContext", "check_rivals", "methods_of", "rival"]

_UNCAPPED = 1000  # rejections of proxy greedy: it ends by itself, not by a limit


@dataclass(frozen=True)
class MethodContext:
    """What a method may bring along.

    Attributes:
        policy: loads the one of its kind.
        seed: of what it draws.
        truth: of the losses; for the reference alone.
    """

    policy: Callable[[], RowPolicy]
    seed: int
    truth: LossModel


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        what: it is, with its source.
        make: a searcher.
        policy: kind of policy that it brings along (`comparison.policy_store.KINDS`); None for none.
        warm_start: whether it reads cheap looks, so that a uniform plan is measured for it, and
            charged.
        has_schemes: whether it prunes layers by schemes, so that a table of what they take is
            measured for it, and charged.
        role: "rival", "control", which shows what a kind of information is worth, or "reference",
            which knows everything and is not ranked.
    """

    what: str
    make: Callable[[MethodContext], Searcher]
    policy: str | None = None
    warm_start: bool = True
    role: str = "rival"
    has_schemes: bool = False


METHODS: dict[str, Method] = {
    "agent": Method(
        "this project's agent: turns of planning in a model, by a policy that never met the family",
        lambda b: PruningAgent(b.policy()),
        "transferred",
    ),
    "ppo-transferred": Method(
        "the same policy alone, rolled out once on the problem",
        lambda b: PolicyRollOut(b.policy()),
        "transferred",
    ),
    "ppo-finetuned": Method(
        "that policy trained on in a model of the problem, rolled out once",
        lambda b: PolicyRollOut(b.policy()),
        "finetuned",
    ),
    "ppo": Method(
        "a policy trained from scratch in a model of the problem, rolled out once",
        lambda b: PolicyRollOut(b.policy()),
        "scratch",
    ),
    "best-of-k": Method(
        "eight walks of the transferred policy, seven of them drawn",
        lambda b: BestOfWalks(b.policy(), seed=b.seed),
        "transferred",
    ),
    "surrogate": Method(
        "the agent's rounds of search without a policy, twice as many",
        lambda b: SurrogateSearch(SurrogateSettings(turns=8, seed=b.seed)),
    ),
    "proxy-greedy": Method(
        "adaptive proxy greedy, no limit to its rejections", lambda b: ProxyGreedy(_UNCAPPED)
    ),
    "cprune": Method(
        "CPrune (Kim et al., ECCV 2022), repaired", lambda b: CPrune(), warm_start=False
    ),
    "cprune-published": Method(
        "CPrune as its authors coded it, 70 trials for each task of each candidate",
        lambda b: PublishedCPrune(),
        warm_start=False,
    ),
    "rb-cprune": Method(
        "CPrune by predicted latencies; its winner, and what it may back off to, are measured",
        lambda b: cprune_by_prediction(),
    ),
    "netadapt": Method("NetAdapt (Yang et al., ECCV 2018)", lambda b: NetAdapt()),
    "halp": Method(
        "HALP (Shen et al., NeurIPS 2022): a knapsack of latency and saliency", lambda b: HALP()
    ),
    "mdp": Method(
        "MDP (Sun et al., 2024): the same with latency by channels read and written together",
        lambda b: MDP(),
    ),
    "fastnas": Method(
        "FastNAS (NVIDIA Model Optimizer): a sensitivity map and a bisection", lambda b: FastNAS()
    ),
    "amc": Method(
        "AMC (He et al., ECCV 2018): a ratio for layer by layer, DDPG",
        lambda b: AMC(AMCSettings(seed=b.seed)),
    ),
    "bayes": Method(
        "Bayesian optimisation by Optuna's constrained TPE", lambda b: Bayes(seed=b.seed)
    ),
    "evolution": Method(
        "regularised evolution (Real et al., AAAI 2019)",
        lambda b: Evolution(seed=b.seed),
        warm_start=False,
    ),
    "annealing": Method(
        "simulated annealing on true looks", lambda b: Annealing(seed=b.seed), warm_start=False
    ),
    "random": Method(
        "random plans that are predicted to use about the slack",
        lambda b: RandomSearch(seed=b.seed),
        warm_start=False,
    ),
    "uniform": Method(
        "the same share of every group, from wide to narrow", lambda b: Uniform(), warm_start=False
    ),
    "mapping-rule": Method(
        "a scheme for each layer by rule (Gong et al., 2021)",
        lambda b: MappingRule(),
        warm_start=False,
        has_schemes=True,
    ),
    "mapping-search": Method(
        "the same by search: rule, then turns of planning in a model by a policy of the scheme environment",
        lambda b: MappingSearch(b.policy(), SurrogateSettings(seed=b.seed)),
        "mapping",
        warm_start=False,
        has_schemes=True,
    ),
    "mapping-rounds": Method(
        "that search without a policy",
        lambda b: MappingSearch(None, SurrogateSettings(seed=b.seed), "mapping-rounds"),
        warm_start=False,
        has_schemes=True,
    ),
    "mapping-published": Method(
        "a scheme for each layer by policy gradient, layer by layer (Gong et al., 2021)",
        lambda b: PublishedMapping(PublishedSettings(seed=b.seed)),
        warm_start=False,
        has_schemes=True,
    ),
    "agent-macs": Method(
        "control: the agent by multiply-accumulates in the place of latency",
        lambda b: agent_by_macs(b.policy()),
        "transferred",
        role="control",
    ),
    "agent-shuffled": Method(
        "control: the agent with latencies shuffled between kinds of tasks",
        lambda b: agent_by_shuffled_tasks(b.policy(), b.seed),
        "transferred",
        role="control",
    ),
    "exact": Method(
        "reference: the optimum over the dense network's legal widths, all latencies and losses known",
        lambda b: Exact(b.truth),
        role="reference",
    ),
}
OF_RUNS = ("agent", "mapping-search", "channels-then-schemes", "channels-then-rule")
"""Methods that a run has policies of its own for."""


def methods_of(names: list[str]) -> list[str]:
    """Names in the order of the table, each once.

    Args:
        names: some of them, or `all`.

    Raises:
        UnknownNameError: there is no such method.
    """
    asked = [current_method(n, warns=True) for n in names]
    for name in asked:
        if name not in METHODS and name != "all":
            raise UnknownNameError("method", name, [*METHODS, "all"])
    return [name for name in METHODS if name in asked or "all" in asked]


def check_rivals(names: Sequence[str], has_schemes: bool) -> None:
    """Whether a run can have these beside its own method:

    they must know nothing that a run does not.

    Args:
        names: of methods.
        has_schemes: whether the run measures layers that are pruned by schemes.

    Raises:
        ConfigError: one needs a policy of its own, the truth, or schemes in a run without them.
        UnknownNameError: there is no such method.
    """
    for name in (current_method(n) for n in names):
        is_of_runs = name in OF_RUNS
        if not is_of_runs and name not in METHODS:
            raise UnknownNameError("method", name, [n for n, m in METHODS.items() if _is_rival(m)])
        if not is_of_runs and not _is_rival(METHODS[name]):
            raise ConfigError(
                f"--rivals {name}: a run has one policy, its own method's, and no true losses. It can have: {', '.join(n for n, m in METHODS.items() if _is_rival(m))}"
            )
        if not has_schemes and name != "agent" and (is_of_runs or METHODS[name].has_schemes):
            raise ConfigError(
                f"--rivals {name} prunes layers by schemes: give --schemes block or both, so that their latencies are measured and the oracle is calibrated on them"
            )


def rival(name: str, seed: int, truth: LossModel) -> Searcher:
    """A method that brings no policy along.

    Args:
        name: that `check_rivals` has passed.
        seed: of what it draws.
        truth: what a run knows of losses; no rival asks for it.
    """

    def no_policy() -> RowPolicy:
        raise ConfigError(f"{name} brings no policy along")

    return METHODS[name].make(MethodContext(no_policy, seed, truth))


def _is_rival(method: Method) -> bool:
    return method.policy is None and method.role == "rival"
