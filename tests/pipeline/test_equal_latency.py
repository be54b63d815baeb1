"""Plans that nothing but accuracy tells apart."""

from __future__ import annotations

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.protocols import LatencySource
from cprune_rl.core.scheme import Scheme
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.latency.interpolation import LatencyInterpolator
from cprune_rl.latency.sources import InterpolatedLatency
from cprune_rl.pipeline.equal_latency import equal_latency_plans
from cprune_rl.testing import AnalyticLatency, toy_network


def share_of_dense(plan: Plan, network: Network, costs: LatencySource) -> float:
    """The predicted latency of a plan, over that of the dense network."""
    pruned, dense = (
        sum(cost.latency_s for cost in costs.predict(network.workloads(p)))
        for p in (plan, network.dense)
    )
    return pruned / dense


def test_plans_of_equal_latency_are_that_and_differ() -> None:
    problem = open_recorded("resnet8")
    measured = problem.latency.interpolator.measured_tasks()  # type: ignore[attr-defined]
    costs = InterpolatedLatency(problem.network, LatencyInterpolator(measured))
    plans = equal_latency_plans(problem.network, costs, 0.5, count=8, seed=0)
    assert len(set(plans)) == 8
    assert plans == equal_latency_plans(problem.network, costs, 0.5, count=8, seed=0)
    assert all(abs(share_of_dense(plan, problem.network, costs) - 0.5) < 0.03 for plan in plans)


def test_plans_of_equal_latency_may_be_pruned_by_schemes() -> None:
    network = toy_network()
    costs = AnalyticLatency(network)
    plans = equal_latency_plans(network, costs, 0.5, count=6, seed=0, by_schemes=True)
    assert len(set(plans)) == 6
    for plan in plans:
        assert plan.widths == network.dense.widths
        assert plan.schemes
        assert abs(share_of_dense(plan, network, costs) - 0.5) < 0.03
    kinds = {Scheme.parse(text).kind for plan in plans for _, text in plan.schemes}
    assert len(kinds) > 1, "each layer has a shape of its own"
