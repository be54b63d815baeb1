"""Writes down what a run came to: networks, figures, a report, and a recording of its problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cprune_rl.accuracy.calibration import Calibrations
from cprune_rl.accuracy.final_gate import difference_interval
from cprune_rl.core.atomic_files import write_bytes
from cprune_rl.core.explained_plan import ExplainedPlan
from cprune_rl.core.intervals import Correct, Interval, accuracy_interval
from cprune_rl.core.result import SPLITS, DenseFigures, Figures, FrontPoint, MethodResult, Result
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import Problem
from cprune_rl.envs.problems.registry import save_recorded
from cprune_rl.models.registry import is_object
from cprune_rl.models.weights import export_torch, save_weights
from cprune_rl.pipeline.backends.base import FinishedNetwork
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.finalize import ComparedFinalists, Finalist
from cprune_rl.pruning.surgery import PlanFile, count_parameters, kept_indices
from cprune_rl.reporting.run_plots import CalibrationMap

__all__ = [
    "OTHER_DENSE",
    "RunOutcome",
    "SearchJob",
    "TestedNetwork",
    "calibration_maps",
    "copy_library",
    "dense_figures",
    "explained_plan",
    "front_folder",
    "front_points",
    "method_results",
    "run_results",
    "save_problem",
    "test_networks",
    "write_network",
    "write_other_dense",
]

OTHER_DENSE = {"finetuned": "dense-given.safetensors", "given": "dense-finetuned.safetensors"}
"""File of the other dense network's weights, by the one that the floor is counted from."""


@dataclass(frozen=True, kw_only=True)
class SearchJob:
    """One search of a run.

    Attributes:
        floor: as asked for.
        label: of the search, in file names and logs.
        name: of its network, beside "dense".
    """

    method: str
    floor: float
    label: str
    name: str


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """What the stages of a run came to.

    Attributes:
        table: of the dense network.
        searches: of each job, in the same order.
        compared: the finished network of each job, by its name.
    """

    context: RunContext
    table: SubgraphTable
    jobs: Sequence[SearchJob]
    searches: Sequence[SearchResult]
    compared: ComparedFinalists

    @property
    def dense(self) -> FinishedNetwork:
        """The dense network that the floor is counted from."""
        return FinishedNetwork(self.context.network.dense, self.context.dense.reference)

    def own_finalist(self, floor: float) -> Finalist:
        """The network of the run's own method for a floor, as asked for."""
        own = [job.name for job in self.jobs if job.floor == floor][-1]
        return self.compared.finalists[own]


def explained_plan(outcome: RunOutcome, floor: float) -> ExplainedPlan:
    """Join the plan of the run's own method with what is known of its tasks and its search."""
    plan = outcome.own_finalist(floor).plan
    network = outcome.context.network
    costs = outcome.context.backend.source().measure(plan)
    jobs = zip(outcome.jobs, outcome.searches, strict=True)
    *_, search = [search for job, search in jobs if job.floor == floor]
    return ExplainedPlan(
        dense=outcome.table,
        pruned=SubgraphTable.from_costs(network, plan, costs),
        history=search.history,
    )


@dataclass(frozen=True)
class TestedNetwork:
    """A finished network on the test images.

    Attributes:
        correct: which of them it is right on, or how many.
    """

    figures: Figures
    correct: Correct


def test_networks(outcome: RunOutcome) -> dict[str, TestedNetwork]:
    """Judge every finished network on the test images, by name."""
    tested = {"dense": _test(outcome, "dense", outcome.dense)}
    for name, finalist in outcome.compared.finalists.items():
        tested[name] = _test(outcome, name, finalist)
    return tested


def dense_figures(outcome: RunOutcome, tested: Mapping[str, TestedNetwork]) -> DenseFigures:
    """Say what is known of both dense networks.

    They have one shape, so one of them is compiled and timed.

    Args:
        outcome: of the run.
        tested: as `test_networks` gives it.
    """
    dense = outcome.context.dense
    reference = tested["dense"].figures
    if dense.other is None:
        return DenseFigures(given=reference)
    other_network = FinishedNetwork(outcome.dense.plan, dense.other)
    other = replace(_test(outcome, "dense", other_network).figures, compiled=None)
    if dense.counted_from == "given":
        return DenseFigures(given=reference, finetuned=other)
    return DenseFigures(given=other, finetuned=reference, floor_from="finetuned")


def write_other_dense(outcome: RunOutcome, folder: Path) -> None:
    """Write the weights of the dense network that the floor is not counted from.

    Where the network was given as a module, no code tells later what both compute: write that too.
    """
    dense = outcome.context.dense
    trained_model = outcome.context.trained_model
    if is_object(trained_model.name):
        shape = trained_model.trainer.input_shape
        export_torch(dense.given, shape, folder / "dense.pt2", any_batch=True)
    if dense.other is not None:
        save_weights(dense.other, folder / OTHER_DENSE[dense.counted_from])


def _test(outcome: RunOutcome, name: str, network: FinishedNetwork | Finalist) -> TestedNetwork:
    comparison = outcome.compared.comparison
    latency = comparison.latency_ms.get(name)
    correct = outcome.context.trained_model.trainer.judge(network.model, "test")
    accuracy = accuracy_interval(correct)
    figures = Figures(
        latency_ms=None if latency is None else latency.value,
        latency_ci_ms=None if latency is None else (latency.low, latency.high),
        estimate_ms=comparison.estimate_ms[name],
        accuracy_test=accuracy.value,
        accuracy_test_ci=(accuracy.low, accuracy.high),
        n_params=count_parameters(network.model, network.plan.schemes),
        macs=outcome.context.network.macs(network.plan),
        compiled=comparison.agreement.get(name),
    )
    return TestedNetwork(figures, correct)


def method_results(outcome: RunOutcome, tested: Mapping[str, TestedNetwork]) -> list[MethodResult]:
    """Join what each search cost with its finished network, in the order of the jobs."""
    methods = []
    for job, search in zip(outcome.jobs, outcome.searches, strict=True):
        finalist = outcome.compared.finalists[job.name]
        speedup = outcome.compared.comparison.speedup[job.name]
        if finalist.plan == outcome.dense.plan:
            speedup = Interval(1.0, 1.0, 1.0)
        method = MethodResult(
            method=finalist.method,
            pruned=tested[job.name].figures,
            speedup=speedup.value,
            speedup_ci=(speedup.low, speedup.high),
            gate=dict(vars(finalist.verdict)),
            cost=_whole_cost(search, finalist),
            history=search.to_json()["history"],
        )
        methods.append(method)
    return methods


def _whole_cost(search: SearchResult, finalist: Finalist) -> dict[str, float]:
    """Add the full fine-tunes that came after a search to what it cost."""
    cost = dict(search.cost)
    cost["full_finetunes"] = finalist.n_finetuned
    cost["train_s"] = cost.get("train_s", 0.0) + finalist.finetune_s
    return cost


def run_results(
    outcome: RunOutcome,
    config: RunConfig,
    dense: DenseFigures,
    methods: Sequence[MethodResult],
    stages_s: Mapping[str, float],
) -> list[Result]:
    """Give the result for each floor of a run.

    Args:
        config: whose names are stated.
        dense: both dense networks.
        methods: as `method_results` gives them.
        stages_s: seconds of each part of the run.
    """
    results = []
    for floor in config.floor:
        jobs = zip(outcome.jobs, methods, strict=True)
        *rivals, main = [method for job, method in jobs if job.floor == floor]
        result = Result(
            model=config.network_name,
            data=config.data,
            device=outcome.context.backend.device_name,
            method=config.own_method,
            seed=config.seed,
            floor=floor,
            dense=dense.given,
            dense_finetuned=dense.finetuned,
            floor_from=dense.floor_from,
            main=main,
            rivals=tuple(rivals),
            fast=config.is_fast,
            noise_floor=outcome.compared.comparison.noise_floor,
            latency_source=outcome.context.backend.latency_source,
            top=config.top,
            labels=config.labels,
            task=config.task or "",
            splits=SPLITS,
            stages_s=dict(stages_s),
            own_loop=outcome.context.trained_model.trainer.own_loop,
            compiled_note=outcome.compared.comparison.note,
        )
        results.append(result)
    return results


def front_points(
    outcome: RunOutcome, tested: Mapping[str, TestedNetwork], methods: Sequence[MethodResult]
) -> list[FrontPoint]:
    """Give what a front says of each network, the dense one first.

    Args:
        methods: as `method_results` gives them.
    """
    dense = tested["dense"]
    points = [_front_point(dense, dense, method="dense", folder="dense")]
    for job, search, method in zip(outcome.jobs, outcome.searches, methods, strict=True):
        point = _front_point(
            tested[job.name],
            dense,
            method=job.method,
            floor=job.floor,
            folder=front_folder(job),
            speedup=(method.speedup, *method.speedup_ci),
            gate=method.gate,
            cost=search.cost,
        )
        points.append(point)
    return points


def front_folder(job: SearchJob) -> str:
    """Name the folder of a job's network within a front's."""
    return f"floor{job.name}"


def _front_point(network: TestedNetwork, dense: TestedNetwork, **stated: Any) -> FrontPoint:
    figures = network.figures
    gained = difference_interval(network.correct, dense.correct)
    without: dict[str, Any] = {"floor": None, "speedup": (1.0, 1.0, 1.0), "gate": {}, "cost": {}}
    return FrontPoint(
        **without | stated,
        shown_ms=figures.shown_ms,
        latency_ci_ms=figures.latency_ci_ms,
        accuracy_test=(figures.accuracy_test, *figures.accuracy_test_ci),
        gained_test=(gained.value, gained.low, gained.high),
        n_params=figures.n_params,
        compiled=figures.compiled,
    )


def write_network(
    outcome: RunOutcome, network: FinishedNetwork | Finalist, name: str, folder: Path
) -> None:
    """Write `plan.json`, `model.safetensors`, and `lib.so` where there was a compiler.

    Args:
        name: of the network in the comparison.
    """
    trained_model = outcome.context.trained_model
    folder.mkdir(exist_ok=True)
    plan_file = PlanFile(
        model=trained_model.name,
        n_classes=trained_model.trainer.n_classes,
        input_shape=trained_model.trainer.input_shape,
        kept=kept_indices(trained_model.coupled, network.plan),
        schemes=network.plan.schemes,
    )
    plan_file.write(folder, network.model)
    if is_object(trained_model.name):
        shape = trained_model.trainer.input_shape
        export_torch(network.model, shape, folder / "model.pt2", any_batch=True)
    copy_library(outcome, name, folder / "lib.so")


def copy_library(outcome: RunOutcome, name: str, path: Path) -> None:
    """Copy the compiled library of a network, where there was a compiler."""
    library = outcome.compared.comparison.libraries.get(name)
    if library is not None:
        write_bytes(path, library.read_bytes())


def calibration_maps(outcome: RunOutcome) -> list[CalibrationMap]:
    """Give the maps of the oracle, fitted to all plans that the run fine-tuned in full."""
    points = list(outcome.context.calibration.points)
    for finalist in outcome.compared.finalists.values():
        points += finalist.points
    points = list(dict.fromkeys(points))
    fitted = Calibrations.fit(points, outcome.dense.plan.widths)
    maps = []
    for what, calibration in (("channels", fitted.channels), ("schemes", fitted.schemes)):
        has_schemes = what == "schemes"
        losses = [
            (p.cheap_loss, p.full_loss) for p in points if bool(p.plan.schemes) == has_schemes
        ]
        if losses:
            maps.append(
                CalibrationMap(
                    what=what,
                    points=losses,
                    calibration=calibration,
                    residual=calibration.residual,
                )
            )
    return maps


def save_problem(outcome: RunOutcome, problem: Problem, path: Path) -> None:
    """Record the run's problem for `cprune_rl/CPruneRecorded-v0`, with every task that was timed.

    Plans that were estimated by prediction were not timed.

    Args:
        problem: whose floor the recording has.
    """
    steps = [step for search in outcome.searches for step in search.history]
    plans = {step.plan for step in steps if not step.predicted_share}
    context = outcome.context
    backend = context.backend
    save_recorded(
        path,
        problem,
        costs=backend.timed_tasks(plans),
        provenance={
            **backend.provenance,
            "data": context.trained_model.trainer.name,
            "dense": context.dense.better,
        },
    )
