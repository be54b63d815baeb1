"""Schemes by rule: the table of latencies decides, the floor says how far."""

from __future__ import annotations

import dataclasses
import math

import pytest

from cprune_rl.agents.core.budget_guard import search_within
from cprune_rl.agents.core.searcher import Budget
from cprune_rl.agents.planner.surrogate import SurrogateSearch, SurrogateSettings
from cprune_rl.agents.schemes.published import PublishedMapping, PublishedSettings
from cprune_rl.agents.schemes.rule import MappingRule
from cprune_rl.agents.schemes.search import ChannelsThenSchemes, MappingSearch
from cprune_rl.core.network import Plan
from cprune_rl.core.protocols import TaskCost
from cprune_rl.core.scheme import Scheme
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.workload import Workload
from cprune_rl.errors import ConfigError
from cprune_rl.pipeline.config import load_config
from cprune_rl.pipeline.setup import check_names
from cprune_rl.testing import AnalyticLatency, AnalyticOracle, check_searcher, toy_problem


class SmallBlocksAreSlow(AnalyticLatency):
    """Blocks of fewer than eight channels take twice as long, and those of the layer `slow` longer
    than dense.
    """

    slow = ""

    def predict(self, workloads: list[Workload]) -> list[TaskCost]:
        costs = super().predict(workloads)
        found = []
        for workload, cost in zip(workloads, costs, strict=True):
            block = int(workload.key.partition("|block=")[2].partition("|")[0] or 0)
            factor = (
                1.0
                if not workload.is_block_sparse
                else 100.0
                if self.slow and self.slow in workload.family
                else 2.0
                if block < 8
                else 1.0
            )
            found.append(dataclasses.replace(cost, latency_s=factor * cost.latency_s))
        return found


def schemes_of(found: SearchResult) -> dict[str, Scheme]:
    return {layer: Scheme.parse(text) for layer, text in found.best.plan.schemes}


MAPPINGS = {
    "rule": MappingRule,
    "search": MappingSearch,
    "both": lambda: ChannelsThenSchemes(
        channels=SurrogateSearch(), schemes=MappingSearch(), surrogate=SurrogateSettings(turns=1)
    ),
    "published": lambda: PublishedMapping(PublishedSettings(episodes=60)),
}


@pytest.mark.parametrize("make", MAPPINGS.values(), ids=MAPPINGS)
def test_mappings_pass_the_conformance_suite(make: type[MappingRule]) -> None:
    result = check_searcher(make, toy_problem)
    assert result.best.plan.schemes
    assert result.best.latency_s < 0.9 * result.accepted[0].latency_s
    assert SearchResult.from_json(result.to_json()).best.plan == result.best.plan


def test_the_smallest_block_that_is_about_as_fast_as_the_coarse_one_is_taken() -> None:
    result = MappingRule().search(toy_problem(), Budget())
    assert {s.block for s in schemes_of(result).values()} == {4}
    result = MappingRule().search(toy_problem(make_latency=SmallBlocksAreSlow), Budget())
    assert {s.block for s in schemes_of(result).values()} == {8}
    (told,) = [s.why for s in result.history if s.why]
    assert [layer for layer in ("conv1", "conv2") if f"{layer}: block of 8" in told] == [
        "conv1",
        "conv2",
    ], "every rule's reason is told"


def test_where_no_layer_can_be_pruned_so_it_is_told() -> None:
    problem = toy_problem()
    bare = dataclasses.replace(
        problem.network,
        subgraphs=tuple(
            dataclasses.replace(s, block_sparse=None) for s in problem.network.subgraphs
        ),
    )
    result = MappingRule().search(dataclasses.replace(problem, network=bare), Budget())
    assert [s.why for s in result.history] == ["no layer of this network can be pruned by a scheme"]
    assert result.best.plan == bare.dense
    loss_model = dataclasses.replace(
        problem.loss_model, layer_scale=problem.loss_model.layer_scale[:0]
    )
    both = ChannelsThenSchemes(
        channels=SurrogateSearch(SurrogateSettings(turns=1)),
        schemes=MappingSearch(),
        surrogate=SurrogateSettings(turns=1),
    )
    found = both.search(dataclasses.replace(problem, network=bare, loss_model=loss_model), Budget())
    assert found.best.latency_s < found.accepted[0].latency_s, (
        "its channels are pruned all the same"
    )


def test_a_layer_that_no_block_makes_faster_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallBlocksAreSlow, "slow", "conv3x3/1")
    result = MappingRule().search(toy_problem(make_latency=SmallBlocksAreSlow), Budget())
    assert set(schemes_of(result)) == {"conv2"}


def test_hard_data_takes_patterns() -> None:
    easy = toy_problem()
    hard = dataclasses.replace(
        easy, oracle=AnalyticOracle(easy.network, 0.7), dense_accuracy=0.7, floor=0.68
    )
    assert {s.kind for s in schemes_of(MappingRule().search(hard, Budget())).values()} == {
        "pattern"
    }


def test_the_density_is_as_low_as_the_floor_allows() -> None:
    tight, loose = (
        schemes_of(MappingRule().search(toy_problem(drop=drop), Budget())) for drop in (0.005, 0.02)
    )
    assert min(s.density for s in tight.values()) > max(s.density for s in loose.values())


@pytest.mark.parametrize("seed", range(3))
def test_both_is_never_slower_than_channels_alone(seed: int) -> None:
    channels = SurrogateSearch(SurrogateSettings(turns=1), seed=seed)
    for costs in (AnalyticLatency, SmallBlocksAreSlow):
        alone = channels.search(toy_problem(make_latency=costs), Budget())
        both = ChannelsThenSchemes(channels=channels, schemes=MappingRule()).search(
            toy_problem(make_latency=costs), Budget()
        )
        assert both.best.latency_s <= alone.best.latency_s
        assert {a.plan for a in alone.accepted} <= {a.plan for a in both.accepted}


def test_schemes_begin_with_all_channels_and_where_half_of_the_slack_is_left() -> None:
    problem = toy_problem()
    result = ChannelsThenSchemes(
        channels=SurrogateSearch(SurrogateSettings(turns=2)), schemes=MappingRule()
    ).search(problem, Budget())
    whole, narrower = dict.fromkeys(s.plan.widths for s in result.history if s.plan.schemes)
    assert whole == problem.network.dense.widths
    start = problem.oracle.accuracy(Plan(narrower)).value
    assert problem.floor + 0.5 * problem.slack <= start < problem.dense_accuracy


@pytest.mark.parametrize("costs", [AnalyticLatency, SmallBlocksAreSlow])
def test_both_is_never_slower_than_schemes_alone(costs: type[AnalyticLatency]) -> None:
    alone = MappingSearch(surrogate=SurrogateSettings(turns=1))
    found = alone.search(toy_problem(make_latency=costs), Budget())
    both = ChannelsThenSchemes(
        channels=SurrogateSearch(SurrogateSettings(turns=1)), schemes=alone
    ).search(toy_problem(make_latency=costs), Budget())
    assert both.best.latency_s <= found.best.latency_s
    assert {a.plan for a in found.accepted} <= {a.plan for a in both.accepted}


def test_channels_come_first_then_blocks_in_what_is_left() -> None:
    problem = toy_problem()
    result = ChannelsThenSchemes(channels=SurrogateSearch(), schemes=MappingRule()).search(
        problem, Budget()
    )
    accepted = [a.plan for a in result.accepted]
    assert [bool(plan.schemes) for plan in accepted] == sorted(
        bool(plan.schemes) for plan in accepted
    ), "plans without schemes come first"
    assert any(plan.schemes and plan.widths != problem.network.dense.widths for plan in accepted)
    assert len(set(accepted)) == len(accepted)
    assert any(s.why.startswith("conv1: ") for s in result.history), (
        "the reasons of the rule are told"
    )
    assert Plan(problem.network.dense.widths) in accepted


@pytest.mark.parametrize("budget", [Budget(accuracy_evaluations=12), Budget(fresh_trials=60)])
def test_within_a_budget_both_have_their_part(budget: Budget) -> None:
    problem = toy_problem()
    result, _ = search_within(
        ChannelsThenSchemes(channels=SurrogateSearch(), schemes=MappingRule()), problem, budget
    )
    assert any(a.plan.schemes for a in result.accepted)
    assert any(not a.plan.schemes for a in result.accepted[1:])
    assert result.cost["accuracy_evaluations"] <= (budget.accuracy_evaluations or math.inf)


def test_blocks_go_with_the_agent_alone() -> None:
    with pytest.raises(ConfigError, match="--methods cprune"):
        check_names(load_config(None, {"change": "channels,schemes", "methods": "cprune"}))


@pytest.mark.parametrize(
    "more",
    [{"device": "recorded:resnet8"}, {"predict": "always", "policy": "x86-cpu"}, {"predict": 0.1}],
)
def test_schemes_want_a_device(more: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="--change schemes measures"):
        check_names(load_config(None, {"change": "channels,schemes", **more}))


@pytest.mark.parametrize("rival", ["mapping-rule", "mapping-search", "channels-then-schemes"])
def test_methods_of_schemes_want_schemes_to_be_measured(rival: str) -> None:
    with pytest.raises(ConfigError, match="--change schemes"):
        check_names(load_config(None, {"methods": f"agent,{rival}"}))
    check_names(load_config(None, {"methods": f"mapping-search,{rival}", "change": "schemes"}))
