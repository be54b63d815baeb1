"""The report of a run that nobody made, on a recorded problem with schemes."""

from dataclasses import replace
from pathlib import Path

from cprune_rl.core.network import Network, Plan
from cprune_rl.core.output_agreement import OutputAgreement
from cprune_rl.core.result import Figures, MethodResult, Result
from cprune_rl.core.search_result import AcceptedPlan, SearchResult, SearchStep
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.registry import open_recorded
from cprune_rl.reporting.run_page import OracleSummary, RunReport
from cprune_rl.reporting.run_plots import CalibrationMap

__all__ = ["SCHEMES", "as_estimate", "make_report"]

SCHEMES = Path(__file__).parents[2] / "docs/results/schemes/resnet8@znver4-1t.json.gz"
_COST = {
    "fresh_trials": 300.0,
    "cached_trials": 20.0,
    "accuracy_evaluations": 14.0,
    "measure_s": 64.0,
    "train_s": 30.0,
    "policy_s": 5.0,
    "wall_s": 99.0,
}


class _Calibration:
    """Half of what the oracle sees."""

    def __call__(self, loss: float) -> float:
        return loss / 2


def make_report() -> RunReport:
    """Two methods; the run's own prunes layers by schemes as well."""
    problem = open_recorded(str(SCHEMES))
    network = problem.network
    half = network.uniform(0.5)
    schemes = [(layer, "block(8,0.25)") for layer in list(network.scheme_layers)[1:4]]
    plans = [("cprune", half), ("agent", Plan(half.widths, tuple(schemes)))]
    costs = problem.latency.measure(network.dense)
    return RunReport(
        result=_result(network, plans),
        table=SubgraphTable.from_costs(network, network.dense, costs),
        searches=[_search(name, problem, plan) for name, plan in plans],
        plans=plans,
        floor=problem.floor,
        oracle=OracleSummary(
            name="finetune:30",
            note="as many steps as the calibration had",
            maps=[
                CalibrationMap(
                    what=what,
                    points=[(0.01, 0.006), (0.05, 0.02), (0.3, 0.16)],
                    calibration=_Calibration(),
                    residual=0.004,
                )
                for what in ("channels", "schemes")
            ],
            data={
                "name": "contours",
                "n_classes": 10,
                "n_train": 8000,
                "n_search": 2000,
                "n_gate": 10000,
                "n_test": 10000,
            },
        ),
        system={
            "processor": "made up",
            "n_cores": 2,
            "memory_gib": 24,
            "os": "none",
            "python": "3.11",
            "packages": {"numpy": "2.0"},
        },
        command="train_agent.py train --fast --out run",
    )


def as_estimate(report: RunReport) -> RunReport:
    """The same run on a recording: nothing is measured."""
    result = report.result

    def unmeasured(method: MethodResult) -> MethodResult:
        figures = replace(method.pruned, latency_ms=None, latency_ci_ms=None, compiled=None)
        return replace(method, pruned=figures)

    return replace(
        report,
        result=replace(
            result,
            dense=replace(result.dense, latency_ms=None, latency_ci_ms=None, compiled=None),
            main=unmeasured(result.main),
            rivals=tuple(map(unmeasured, result.rivals)),
            latency_source="recorded: x, 9 tasks timed on a board",
            noise_floor=None,
        ),
    )


def _result(network: Network, plans: list[tuple[str, Plan]]) -> Result:
    methods = [
        MethodResult(
            method=name,
            pruned=_figures(0.4 - 0.1 * at, network.macs(plan)),
            speedup=2.0 + at,
            speedup_ci=(1.9 + at, 2.1 + at),
            gate={
                "accuracy": 0.9,
                "lower_bound": 0.895,
                "floor": 0.89,
                "risk": 0.05,
                "passed": True,
            },
            cost=_COST,
        )
        for at, (name, plan) in enumerate(plans)
    ]
    return Result(
        model="resnet8",
        data="contours",
        device="local",
        method="agent",
        seed=0,
        floor=-0.01,
        dense=_figures(0.8, network.macs(network.dense)),
        main=methods[-1],
        rivals=tuple(methods[:-1]),
        fast=True,
        noise_floor=0.01,
    )


def _figures(latency_ms: float, macs: int) -> Figures:
    return Figures(
        latency_ms=latency_ms,
        latency_ci_ms=(0.98 * latency_ms, 1.02 * latency_ms),
        estimate_ms=0.95 * latency_ms,
        accuracy_test=0.9,
        accuracy_test_ci=(0.89, 0.91),
        n_params=20000,
        macs=macs,
        compiled=OutputAgreement(relative_difference=3e-5, same_class=1.0, n_images=16),
    )


def _search(name: str, problem: Problem, plan: Plan) -> SearchResult:
    dense = problem.network.dense
    steps = [
        SearchStep(plan=plan, what="a task", latency_s=4e-4, accuracy=0.9, accepted=True),
        SearchStep(plan=plan, what="a task", latency_s=3e-4, accuracy=0.8),
        SearchStep(plan=plan, what="a task", latency_s=2e-4),
    ]
    accepted = (AcceptedPlan(dense, 8e-4, 0.91), AcceptedPlan(plan, 4e-4, 0.9))
    return SearchResult(method=name, accepted=accepted, history=tuple(steps), cost=_COST)
