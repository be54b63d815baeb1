"""The run: assemble, train the agent, search, finalize, compare, write everything down.

Each stage leaves its result in the run folder and is not repeated by `--resume`; what is inside a
stage
is in the cost cache.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from cprune_rl.accuracy.training import correct_predictions
from cprune_rl.core.intervals import accuracy_interval
from cprune_rl.core.result import Figures, MethodResult, Result
from cprune_rl.core.search_result import SearchResult
from cprune_rl.core.subgraph_table import SubgraphTable
from cprune_rl.envs.problem import resolve_floor
from cprune_rl.envs.problems.registry import save_recorded
from cprune_rl.models.weights import export_torch, save_weights
from cprune_rl.pipeline import search_stage as searching
from cprune_rl.pipeline.backends.base import Comparison, FinishedNetwork
from cprune_rl.pipeline.config import RunConfig
from cprune_rl.pipeline.context import RunContext
from cprune_rl.pipeline.finalize import FinalGate, Finalist, compare_finalists, finalize
from cprune_rl.pipeline.progress import ProgressLog
from cprune_rl.pipeline.run_folder import RunFolder
from cprune_rl.pipeline.setup import open_context
from cprune_rl.pruning.surgery import PlanFile, count_parameters, kept_indices
from cprune_rl.reporting.run_page import OracleSummary, RunReport, write_page
from cprune_rl.reporting.run_plots import CalibrationMap
from cprune_rl.reporting.run_tables import (
    costs_table,
    noise_note,
    prediction_note,
    results_table,
    subgraph_table,
)

__all__ = ["methods_of_run", "record_problem", "run"]


def run(folder: RunFolder, progress: ProgressLog) -> Result:
    """Goes the whole way from a network's name to a compiled, pruned network.

    Args:
        folder: where everything is written; what is there already is not done again.
        progress: told what is going on.

    Raises:
        CPruneError: see `open_context`; what was done so far stays in the folder and the cost
            cache.
    """
    config = folder.config
    torch.manual_seed(config.seed)
    with open_context(config, progress, folder.started) as context:
        table = _dense_table(context)
        progress.console.print(subgraph_table(table).for_terminal())
        searches = [
            searching.search(context, folder, progress, method) for method in methods_of_run(config)
        ]
        gate = FinalGate(context)
        finalists: list[Finalist] = []
        for search in searches:
            finalists.append(finalize(search, gate, progress, finalists))
        chosen, networks, comparison = compare_finalists(
            context, {f.method: f for f in finalists}, folder.path, progress
        )
        finalists = list(chosen.values())
        result = _result(
            context,
            folder,
            searches,
            finalists,
            networks,
            comparison,
            {**progress.stages_s, "all": round(time.time() - folder.started, 1)},
        )
        _write_network(context, folder, finalists[-1], comparison)
        record_problem(context, folder, searches)
        result.write(folder.file("result.json"))
        system, command = (
            folder.read_json("system.json") or {},
            folder.file("command.txt").read_text().strip(),
        )
        plans = [(f.method, f.plan) for f in finalists]
        oracle = OracleSummary(
            name=context.oracle.name,
            note=context.oracle.note,
            maps=_maps(context),
            data=context.data.describe(),
        )
        report = RunReport(
            result=result,
            table=table,
            searches=searches,
            plans=plans,
            floor=context.problem().floor,
            oracle=oracle,
            system=system,
            command=command,
        )
        write_page(folder.file("report.html"), report)
    for shown in (results_table(result), costs_table(result)):
        progress.console.print(shown.for_terminal())
    for line in (noise_note(result), prediction_note(result)):
        if line:
            progress.print(line)
    if finalists[-1].plan == context.network.dense:
        progress.print(
            "No plan holds this floor: the result is the dense network, speed-up 1.0. A lower --floor gives the search room."
        )
    floor = resolve_floor(config.floor, result.dense.accuracy_test, may_exceed=True)
    for method in (*result.rivals, result.main):
        holds = "holds" if method.pruned.accuracy_test >= floor else "does NOT hold"
        progress.print(
            f"{method.method}: the floor, {floor:.2%} on test images, {holds} ({method.pruned.accuracy_test:.2%})"
        )
    progress.print(
        f"Run folder: {folder.path} (open report.html; check it with `cprune-rl validate {folder.path}`)"
    )
    return result


def methods_of_run(config: RunConfig) -> list[str]:
    """Searches to run, the run's own last."""
    beside = ["cprune", config.method] if config.rival else []
    return [
        *(name for name in dict.fromkeys([*beside, *config.rivals]) if name != config.own_method),
        config.own_method,
    ]


def _maps(context: RunContext) -> list[CalibrationMap]:
    """For the page: what the oracle's answers were mapped by."""
    found = []
    for what, calibration, has_schemes in (
        ("channels", context.calibrations.channels, False),
        ("schemes", context.calibrations.schemes, True),
    ):
        points = [
            (p.cheap_loss, p.full_loss)
            for p in context.calibration_points
            if bool(p.plan.schemes) == has_schemes
        ]
        if points:
            found.append(
                CalibrationMap(
                    what=what,
                    points=points,
                    calibration=calibration,
                    residual=calibration.residual,
                )
            )
    return found


def _dense_table(context: RunContext) -> SubgraphTable:
    costs = context.backend.source().measure(context.network.dense)
    return SubgraphTable.from_costs(context.network, context.network.dense, costs)


def _result(
    context: RunContext,
    folder: RunFolder,
    searches: Sequence[SearchResult],
    finalists: Sequence[Finalist],
    networks: Mapping[str, FinishedNetwork],
    comparison: Comparison,
    stages_s: dict[str, float],
) -> Result:
    """Joins what the searches cost, what the finished networks are and how fast they are."""
    config = context.config
    figures = {
        name: _figures(context, comparison, name, network) for name, network in networks.items()
    }
    methods = []
    for search, finalist in zip(searches, finalists, strict=True):
        ratio = comparison.speedup[finalist.method]
        speedup, interval = (
            (1.0, (1.0, 1.0))
            if finalist.plan == context.network.dense
            else (ratio.value, (ratio.low, ratio.high))
        )
        cost = {**search.cost, "full_finetunes": finalist.n_finetuned}
        methods.append(
            MethodResult(
                finalist.method,
                figures[finalist.method],
                speedup,
                interval,
                vars(finalist.verdict),
                cost,
                search.to_json()["history"],
            )
        )
        folder.log(
            "final",
            0,
            **{
                f"{finalist.method}/speedup": speedup,
                f"{finalist.method}/accuracy_test": figures[finalist.method].accuracy_test,
            },
        )
    names = (config.network_name, config.data, context.backend.device_name, config.own_method)
    rivals = tuple(methods[:-1])
    return Result(
        *names,
        config.seed,
        config.floor,
        figures["dense"],
        methods[-1],
        rivals,
        config.fast,
        comparison.noise_floor,
        context.backend.latency_source,
        config.top,
        stages_s,
    )


def _figures(
    context: RunContext, comparison: Comparison, name: str, network: FinishedNetwork
) -> Figures:
    latency = comparison.latency_ms.get(name)
    value, interval = (
        (None, None) if latency is None else (latency.value, (latency.low, latency.high))
    )
    accuracy = accuracy_interval(correct_predictions(network.model, context.data.test))
    size = count_parameters(network.model, network.plan.schemes), context.network.macs(network.plan)
    return Figures(
        value,
        interval,
        comparison.estimate_ms[name],
        accuracy.value,
        (accuracy.low, accuracy.high),
        *size,
    )


def _write_network(
    context: RunContext, folder: RunFolder, finalist: Finalist, comparison: Comparison
) -> None:
    """`plan.json`, `model.safetensors`, `model.pt2`;

    `lib.so` and the dense network's library where there was a compiler.
    """
    kept = kept_indices(context.coupled, finalist.plan)
    PlanFile(
        model=context.config.network_name,
        n_classes=context.data.n_classes,
        input_shape=context.data.input_shape,
        kept=kept,
        schemes=finalist.plan.schemes,
    ).write(folder.path, finalist.model)
    export_torch(finalist.model, context.data.input_shape, folder.file("model.pt2"))
    for source, name in ((finalist.method, "lib.so"), ("dense", "dense.so")):
        if source in comparison.libraries:
            folder.file(name).write_bytes(comparison.libraries[source].read_bytes())
    save_weights(context.model, folder.file("dense.safetensors"))


def record_problem(
    context: RunContext, folder: RunFolder, searches: Sequence[SearchResult]
) -> None:
    """`problem.json`: this problem for `cprune_rl/CPruneRecorded-v0`, with every task this run
    timed; plans that were estimated by prediction are not timed for it.

    Args:
        context: the run's parts.
        folder: of the run.
        searches: of the run.
    """
    steps = [step for search in searches for step in search.history]
    plans = {step.plan for step in steps if not step.predicted_share}
    provenance = {**context.backend.provenance, "data": context.data.name}
    save_recorded(
        folder.file("problem.json"),
        context.problem(),
        context.backend.timed_tasks(plans),
        provenance,
    )
