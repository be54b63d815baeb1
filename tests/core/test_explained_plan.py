"""A plan in words: what is pruned, what is left whole, and why."""

from __future__ import annotations

import dataclasses

from cprune_rl.core.explained_plan import ExplainedPlan
from cprune_rl.core.network import Plan
from cprune_rl.core.search_result import SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problems.registry import open_recorded


def explained(widths: dict[str, int], *history: SearchStep) -> ExplainedPlan:
    """Explain a plan of the recorded resnet8."""
    problem = open_recorded("resnet8")
    network = dataclasses.replace(problem.network, unprunable=(("fc", "gives the output"),))
    plan = Plan(tuple(widths.get(group.name, group.channels) for group in network.groups))

    def table(of: Plan) -> SubgraphTable:
        return SubgraphTable.from_costs(network, of, problem.latency.measure(of))

    return ExplainedPlan(dense=table(network.dense), pruned=table(plan), history=history)


def test_every_group_is_named_with_its_channels_its_share_and_its_step() -> None:
    network = open_recorded("resnet8").network
    group = network.groups[-1]
    plan = explained({group.name: group.channels // 2})
    assert plan.channels[group.name] == (group.channels, group.channels // 2)
    summary, first, *others = plan.explain().splitlines()
    assert f"1 of {len(network.groups)} groups of channels" in summary
    assert f"{plan.dense.latency_s / plan.pruned.latency_s:.2f} times as fast" in summary
    assert first.startswith(", ".join(group.layers[:4]))
    assert f"{group.channels // 2} of {group.channels} channels are kept" in first
    rows = [row for row in plan.dense.rows if len(network.groups) - 1 in row.groups]
    share = sum(row.total_s for row in rows) / plan.dense.latency_s
    assert f"{share:.0%} of the dense network's latency" in first
    step = plan.dense.steps[-1]
    assert f"the compiler's step was {step} channel" in first
    assert sum("are kept" in line for line in others) == len(network.groups) - 1
    assert others[-1] == "fc cannot be pruned: gives the output."
    assert str(plan) == plan.explain()


def test_a_group_that_is_left_whole_says_what_the_search_tried() -> None:
    network = open_recorded("resnet8").network
    names = [group.name for group in network.groups]

    def step(name: str, **of: object) -> SearchStep:
        plan = network.dense.with_width(names.index(name), network.groups[0].minimum)
        return SearchStep(plan=plan, what="a task", latency_s=1e-4, **of)  # type: ignore[arg-type]

    plan = explained(
        {},
        step(names[0], accuracy=0.9, accepted=True),
        step(names[1], accuracy=0.5),
        step(names[1], accuracy=0.4),
        step(names[2]),
    )
    reasons = {
        line.partition(":")[0]: line.rpartition("latency. ")[2]
        for line in plan.explain().splitlines()[1:]
    }
    layers = [", ".join(group.layers[:4]) for group in network.groups]
    assert "1 candidate with fewer of them held the floor" in reasons[layers[0]]
    assert reasons[layers[1]] == "2 candidates with fewer of them lost too much accuracy."
    assert "did not gain enough" in reasons[layers[2]]
    assert "search" in reasons[layers[3]]


def test_the_candidate_that_it_was_is_named() -> None:
    network = open_recorded("resnet8").network
    plan = network.uniform(0.5)
    widths = {group.name: width for group, width in zip(network.groups, plan.widths, strict=True)}
    step = SearchStep(plan=plan, what="the planner", latency_s=1e-4, why="score 2.0")
    assert (
        "It is candidate 1 of 1, from the planner: score 2.0." in explained(widths, step).explain()
    )
